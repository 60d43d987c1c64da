// The Helm chart: what it renders, held against the schemas of Kubernetes, the oldest version that it names and a new one.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { CHART, helm, render } from './chart.js';

const PYTHON = process.env.TIDINGS_DEPLOY_PYTHON;
const read = (name) => parse(readFileSync(join(CHART, name), 'utf8'));
const VERSIONS = [read('Chart.yaml').kubeVersion.match(/\d+\.\d+/)[0], '1.37'];
// Another value for each key of values.yaml, at its path.
const OTHERS = {
  replicas: 5,
  'image.repository': 'registry.example/team/tidings',
  'image.tag': '1.2.3-rc.1',
  'image.pullPolicy': 'Always',
  imagePullSecrets: [{ name: 'registry' }],
  publicUrl: 'https://events.example',
  config: '\n  [bus]\n  kind = "kafka"\n\n# ünïcode: "quotes", {{ braces }}\n',
  secret: 'another',
  'service.type': 'LoadBalancer',
  'service.port': 8443,
  'service.annotations': { 'example.com/internal': 'true' },
  'serviceAccount.create': false,
  'serviceAccount.name': 'named',
  'serviceAccount.annotations': { 'eks.amazonaws.com/role-arn': 'arn:aws:iam::123456789012:role/tidings' },
  terminationGracePeriodSeconds: 60,
  'resources.requests.cpu': '2',
  'resources.requests.memory': '1Gi',
  'resources.limits.memory': '4Gi',
  'podDisruptionBudget.enabled': false,
  'podDisruptionBudget.maxUnavailable': '25%',
  'autoscaling.enabled': true,
  'autoscaling.minReplicas': 3,
  'autoscaling.maxReplicas': 30,
  'autoscaling.targetCPUUtilizationPercentage': 50,
  podAnnotations: { 'prometheus.io/scrape': 'true' },
  podLabels: { team: 'events' },
  nodeSelector: { 'kubernetes.io/arch': 'amd64' },
  tolerations: [{ key: 'dedicated', operator: 'Equal', value: 'events', effect: 'NoSchedule' }],
  affinity: {
    podAntiAffinity: {
      requiredDuringSchedulingIgnoredDuringExecution: [
        { topologyKey: 'kubernetes.io/hostname', labelSelector: { matchLabels: { 'app.kubernetes.io/name': 'tidings' } } },
      ],
    },
  },
  extraEnv: [{ name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
  extraVolumes: [{ name: 'jwks', secret: { secretName: 'jwks', items: [{ key: 'jwks.json', path: 'jwks.json' }] } }],
  extraVolumeMounts: [{ name: 'jwks', mountPath: '/etc/tidings-jwks', readOnly: true }],
};

/** The values that say `value` at a path as `image.tag`. */
function at(path, value) {
  return path.split('.').reduceRight((inner, key) => ({ [key]: inner }), value);
}

function merge(left, right) {
  if (left?.constructor !== Object || right?.constructor !== Object) return right;
  const keys = Object.keys({ ...left, ...right });
  return Object.fromEntries(keys.map((key) => [key, key in right ? merge(left[key], right[key]) : left[key]]));
}

/** All values turned but those that leave a part out, and each that does by itself. */
const LEAVES_OUT = ['serviceAccount.create', 'podDisruptionBudget.enabled'];
const all = Object.entries(OTHERS)
  .filter(([path]) => !LEAVES_OUT.includes(path))
  .reduce((values, [path, value]) => merge(values, at(path, value)), {});
const CASES = {
  'as they are': { secret: 'tidings' },
  'all turned': all,
  ...Object.fromEntries(LEAVES_OUT.map((path) => [`${path} off`, merge(all, at(path, false))])),
};

/** Paths of a tree of values; what is empty is one. */
function paths(values, prefix = '') {
  return Object.entries(values).flatMap(([key, value]) =>
    value?.constructor === Object && Object.keys(value).length > 0 ? paths(value, `${prefix}${key}.`) : [prefix + key],
  );
}

test('without the name of a Secret it says what is missing', () => {
  const { status, stderr } = helm(['template', 't', CHART, '--kube-version', '1.37']);
  assert.notEqual(status, 0);
  assert.match(stderr, /secret: the name of the Secret with TIDINGS_STORE__URL and the credentials/);
});

test('each pod says the address that others reach it at, once', () => {
  const addresses = (values) => {
    const { documents } = render({ secret: 'tidings', ...values });
    const [{ spec }] = documents.filter(({ kind }) => kind === 'Deployment');
    const variables = spec.template.spec.containers[0].env;
    return variables.filter(({ name }) => name === 'TIDINGS_SERVER__PUBLIC_URL').map(({ value }) => value);
  };
  assert.match(addresses({})[0], /^http:\/\/[a-z-]+\.[a-z-]+:80$/);
  assert.deepEqual(addresses({ publicUrl: 'https://events.example' }), ['https://events.example']);
  assert.deepEqual(addresses({ config: '[server]\npublic_url = "https://events.example"\n' }), []);
});

for (const [name, values] of Object.entries(CASES)) {
  test(`values ${name}: lint finds nothing`, () => {
    const { status, stdout, stderr } = helm(['lint', '--strict', '-f', '-', CHART], JSON.stringify(values));
    assert.equal(status, 0, stdout + stderr);
    assert.doesNotMatch(stdout, /WARNING|ERROR/);
  });

  for (const version of VERSIONS) {
    test(`values ${name}: Kubernetes ${version} knows all that is rendered`, () => {
      const { text, documents } = render(values, { version });
      const arguments_ = ['-m', 'kubernetes_validate', '--strict', '-k', version, '-'];
      const { status, stdout, stderr } = spawnSync(PYTHON, arguments_, { input: text, encoding: 'utf8' });
      assert.equal(status, 0, stdout + stderr);
      const passed = stdout.trim().split('\n').filter((line) => line.includes(`against version ${version}`));
      assert.equal(passed.length, documents.length, stdout);
    });
  }

  test(`values ${name}: the parts fit each other`, () => {
    const { documents } = render(values);
    const [deployment] = documents.filter(({ kind }) => kind === 'Deployment');
    const pod = deployment.spec.template;
    const [container] = pod.spec.containers;
    const selects = (selector) => {
      for (const [label, value] of Object.entries(selector)) assert.equal(pod.metadata.labels[label], value);
    };
    const of = {
      ConfigMap: ({ metadata }) =>
        assert.ok(pod.spec.volumes.some(({ configMap }) => configMap?.name === metadata.name)),
      Deployment: ({ spec }) => selects(spec.selector.matchLabels),
      HorizontalPodAutoscaler: ({ spec }) => {
        assert.equal(spec.scaleTargetRef.name, deployment.metadata.name);
        assert.equal(deployment.spec.replicas, undefined);
      },
      PodDisruptionBudget: ({ spec }) => selects(spec.selector.matchLabels),
      Service: ({ spec }) => {
        selects(spec.selector);
        const [{ targetPort }] = spec.ports;
        assert.ok(container.ports.some(({ name }) => name === targetPort));
      },
      ServiceAccount: ({ metadata }) => assert.equal(pod.spec.serviceAccountName, metadata.name),
    };
    for (const document of documents) of[document.kind](document);
    const mounted = container.volumeMounts.map((mount) => mount.name);
    assert.deepEqual(mounted.sort(), pod.spec.volumes.map((volume) => volume.name).sort());
    const { startupProbe } = container;
    assert.ok(deployment.spec.progressDeadlineSeconds > startupProbe.periodSeconds * startupProbe.failureThreshold);
  });
}

test('each value of values.yaml does something', () => {
  const defaults = paths(read('values.yaml'));
  assert.deepEqual(Object.keys(OTHERS).sort(), defaults.sort());
  const bases = [{ secret: 'tidings' }, { secret: 'tidings', autoscaling: { enabled: true } }];
  for (const path of defaults) {
    const changed = bases.some((base) => render(base).text !== render(merge(base, at(path, OTHERS[path]))).text);
    assert.ok(changed, path);
  }
});

test('the configuration arrives as it was written', () => {
  for (const config of [OTHERS.config, '', '    indented = 1\nback = 2', 'no end of line', read('values.yaml').config]) {
    const { documents } = render({ secret: 'tidings', config });
    const [map] = documents.filter(({ kind }) => kind === 'ConfigMap');
    assert.equal(map.data['tidings.toml'], config);
  }
});

test('names and labels are short enough, and of the letters that they may have', (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'tidings-chart-'));
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const { status, stderr } = helm(['package', CHART, '--version', '0.1.0+build.7', '-d', folder]);
  assert.equal(status, 0, stderr);
  for (const name of ['t', 'tidings', 'my-tidings-2', 'r'.repeat(53)]) {
    for (const chart of [CHART, join(folder, 'tidings-0.1.0+build.7.tgz')]) {
      for (const { metadata, spec } of render({ secret: 'tidings' }, { name, chart }).documents) {
        assert.match(metadata.name, /^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$/);
        for (const labels of [metadata.labels, spec?.template?.metadata.labels ?? {}]) {
          for (const value of Object.values(labels)) assert.match(value, /^[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?$/);
        }
      }
    }
  }
});
