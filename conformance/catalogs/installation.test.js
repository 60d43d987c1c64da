// What a running installation says of its topics, /asyncapi.json, held against the AsyncAPI schema.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import Ajv from 'ajv';
import { parse } from 'yaml';

const BINARY = process.env.TIDINGS_BINARY;
const require = createRequire(import.meta.url);
// It brings the draft-07 schema along under its own name, so that ajv's copy must stay out.
const asyncapi = new Ajv({ meta: false, validateSchema: false, strict: false, validateFormats: false }).compile(
  require('@asyncapi/specs/schemas/3.0.0.json'),
);
const folder = mkdtempSync(join(tmpdir(), 'tidings-catalogs-'));
let server;
let url;

async function call(method, path, body) {
  const minted = spawnSync(BINARY, ['token', '--data', folder, '--role', 'OPERATOR']);
  const headers = { authorization: `Bearer ${minted.stdout.toString().trim()}`, 'content-type': 'application/yaml' };
  const response = await fetch(url + path, { method, headers, body });
  assert.equal(response.status, 200, path);
  return response.json();
}

before(async () => {
  assert.ok(BINARY, 'TIDINGS_BINARY names the binary');
  server = spawn(BINARY, ['serve', '--data', folder, '--listen', '127.0.0.1:0'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of createInterface({ input: server.stdout })) {
    url = line.match(/http:\S+/)?.[0];
    if (url) break;
  }
});

after(() => {
  server?.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

/** Every reference, which must lead somewhere. */
function references(value) {
  if (value === null || typeof value !== 'object') return [];
  const own = typeof value.$ref === 'string' ? [value.$ref] : [];
  return own.concat(...Object.values(value).map(references));
}

test('the document of an installation is AsyncAPI 3.0, with and without catalogues', async () => {
  const valid = async () => {
    const document = await call('GET', '/asyncapi.json');
    assert.ok(asyncapi(document), JSON.stringify(asyncapi.errors?.slice(0, 5), null, 2));
    for (const reference of references(document)) {
      const path = reference.slice(2).split('/');
      const names = path.map((name) => name.replaceAll('~1', '/').replaceAll('~0', '~'));
      assert.ok(names.reduce((node, name) => node?.[name], document), reference);
    }
    return Object.values(document.channels).map((channel) => channel.address).sort();
  };
  // What the gateway itself tells of, and the type that the sample module of a first start declares.
  const topics = ['platform.custom.events', 'platform.custom.events.lifecycle', 'platform.data.events'];
  assert.deepEqual(await valid(), topics);
  for (const name of ['cpaas', 'marketplace']) {
    const text = readFileSync(new URL(`../../examples/catalogs/${name}.asyncapi.yaml`, import.meta.url), 'utf8');
    await call('PUT', `/v1/catalogs/${name}`, text);
    topics.push(...Object.values(parse(text).channels).map((channel) => channel.address));
  }
  assert.deepEqual(await valid(), topics.sort());
});
