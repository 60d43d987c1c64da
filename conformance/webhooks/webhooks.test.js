// The main job of the publish chapter, on payloads nobody here wrote: publish all, read all back, repeat all.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

const BINARY = process.env.TIDINGS_BINARY;
const SOURCES = ['api.github.com', 'ghes-31', 'ghes-32', 'ghes-33', 'ghes-34', 'ghes-35'];

const require = createRequire(import.meta.url);
const folder = mkdtempSync(join(tmpdir(), 'tidings-webhooks-'));
const events = SOURCES.flatMap((source) =>
  require(`@octokit/webhooks-examples/${source}/index.json`).flatMap((webhook) =>
    webhook.examples.map((data, number) => ({
      type: ['github', webhook.name, data.action].filter(Boolean).join('.'),
      data,
      idempotencyKey: `${source}/${webhook.name}/${number}`,
    })),
  ),
);

let server;
let url;
let token;

async function call(path, body) {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  if (body?.idempotencyKey) headers['idempotency-key'] = body.idempotencyKey;
  const { idempotencyKey, ...sent } = body ?? {};
  const options = body ? { method: 'POST', headers, body: JSON.stringify(sent) } : { headers };
  const response = await fetch(url + path, options);
  return { status: response.status, body: await response.json() };
}

async function everything() {
  const items = [];
  let cursor = '';
  do {
    const page = await call(`/v1/events?limit=100${cursor && `&cursor=${cursor}`}`);
    assert.equal(page.status, 200);
    items.push(...page.body.items);
    cursor = page.body.nextCursor;
  } while (cursor);
  return items;
}

before(async () => {
  assert.ok(BINARY, 'TIDINGS_BINARY names the binary');
  const manifests = join(folder, 'manifests');
  mkdirSync(manifests);
  const publishes = [...new Set(events.map((event) => event.type))];
  const manifest = { id: 'github', version: '1.0.0', events: { publishes } };
  writeFileSync(join(manifests, 'github.manifest.json'), JSON.stringify(manifest));
  const data = join(folder, 'data');
  const flags = ['--data', data, '--listen', '127.0.0.1:0', '--manifests', manifests, '--no-demo'];
  server = spawn(BINARY, ['serve', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: server.stdout })) {
    url = line.match(/http:\S+/)?.[0];
    if (url) break;
  }
  const minted = spawnSync(BINARY, ['token', '--data', data, '--tenant', 'acme', '--module', 'github']);
  token = minted.stdout.toString().trim();
});

after(() => {
  server?.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

test('every recorded webhook goes in and comes out as it was, and a repeat appends nothing', async () => {
  assert.ok(events.length > 500, `${events.length} examples`);
  const receipts = [];
  for (const event of events) {
    const answer = await call('/v1/events/publish', event);
    assert.equal(answer.status, 201, JSON.stringify(answer.body));
    receipts.push(answer.body);
  }
  const listed = await everything();
  assert.equal(listed.length, events.length);
  for (const [index, event] of events.entries()) {
    const { type, data, tenantid, eventId } = listed[index];
    assert.equal(eventId, receipts[index].eventId);
    assert.deepEqual({ type, data, tenantid }, { type: event.type, data: event.data, tenantid: 'acme' });
    const one = await call(`/v1/events/${eventId}`);
    assert.deepEqual(one.body, listed[index]);
  }
  for (const [index, event] of events.entries()) {
    const answer = await call('/v1/events/publish', event);
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.body, receipts[index]);
  }
  assert.equal((await everything()).length, events.length);
});
