// What Helm makes of the chart.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseAllDocuments } from 'yaml';

export const CHART = fileURLToPath(new URL('../../deploy/helm/tidings', import.meta.url));

/** Runs Helm, with `input` as its standard input. */
export function helm(args, input) {
  const run = spawnSync(process.env.TIDINGS_HELM, args, { input, encoding: 'utf8' });
  assert.ifError(run.error);
  return run;
}

/** The chart with these values: the text, and its documents read. */
export function render(values, { version = '1.37', name = 't', chart = CHART } = {}) {
  const args = ['template', name, chart, '--namespace', 'events', '--kube-version', version, '-f', '-'];
  const { status, stdout, stderr } = helm(args, JSON.stringify(values));
  assert.equal(status, 0, stderr);
  const documents = parseAllDocuments(stdout).map((document) => {
    assert.deepEqual(document.errors, []);
    return document.toJS();
  });
  return { text: stdout, documents: documents.filter((document) => document !== null) };
}
