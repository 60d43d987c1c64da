// What the official libraries of the receivers' side make of deliveries: signatures by standardwebhooks, events by the
// CloudEvents SDKs, in Node and in Python. The events are real ones and some that are hard to write down.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

const BINARY = process.env.TIDINGS_BINARY;
const PYTHON = process.env.TIDINGS_RECEIVER_PYTHON;
const FORMATS = ['cloudevents-structured', 'cloudevents-binary', 'platform-event'];
const PATIENCE_MS = 60_000;

const require = createRequire(import.meta.url);
const folder = mkdtempSync(join(tmpdir(), 'tidings-receivers-'));
const recorded = require('@octokit/webhooks-examples/api.github.com/index.json').map(({ name, examples }) => ({
  type: `github.${name}.recorded`,
  data: examples[0],
}));
const hard = [
  { datacontenttype: 'application/json', data: { name: 'Zoë 100% "quoted"', list: [1, null, 'ü'] } },
  { datacontenttype: 'text/plain; charset=utf-8', data: 'Grüße, 世界 – 100 % "so"\n' },
  { datacontenttype: 'application/octet-stream', data_base64: Buffer.from([0, 255, 254, 128, 10]).toString('base64') },
].map((event, index) => ({
  specversion: '1.0',
  id: `Nº ${index} "100%" ✓`,
  source: '/receivers/%7Ehard',
  type: `hard.case.number${index}`,
  subject: 'Köln – 東京 \u{1f600}',
  time: '2026-01-31T12:00:00.5Z',
  city: 'Łódź, 50% "off"',
  ...event,
}));

const processes = [];
let url;
let token;
let receivers;

/// Starts a program; answers its first line and calls `each` with the others.
async function start(command, args, each) {
  const env = { ...process.env, TIDINGS_LOG__LEVEL: 'error' };
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], env });
  processes.push(child);
  const lines = createInterface({ input: child.stdout });
  const first = await new Promise((resolve, reject) => {
    lines.once('line', resolve);
    lines.once('close', () => reject(new Error(`${command} said nothing`)));
  });
  lines.on('line', each ?? (() => {}));
  return first;
}

/// A receiver in a language, with all that has come to it.
async function receiver(language, command, args) {
  const messages = [];
  const waiting = new Set();
  const port = await start(command, args, (line) => {
    messages.push(JSON.parse(line));
    for (const look of waiting) look();
  });
  const at = (path) => messages.filter((message) => message.path === path);
  return {
    language,
    url: (path) => `http://127.0.0.1:${port}${path}`,
    /// The messages at a path once there are so many that were taken.
    taken(path, count) {
      return new Promise((resolve, reject) => {
        const late = setTimeout(() => {
          waiting.delete(look);
          reject(new Error(`${language} ${path}: ${at(path).length} messages, not ${count}`));
        }, PATIENCE_MS);
        const look = () => {
          const faults = at(path).filter((message) => message.fault);
          if (faults.length === 0 && at(path).filter(({ status }) => status < 300).length < count) return;
          clearTimeout(late);
          waiting.delete(look);
          if (faults.length > 0) reject(new Error(faults[0].fault));
          else resolve(at(path));
        };
        waiting.add(look);
        look();
      });
    },
    async expect(path, keys, failures = 0) {
      const answer = await fetch(this.url(path), { method: 'PUT', body: JSON.stringify({ keys, failures }) });
      assert.equal(answer.status, 204);
    },
  };
}

async function call(path, body, type = 'application/json') {
  const headers = { authorization: `Bearer ${token}`, 'content-type': type };
  const answer = await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) });
  const json = await answer.json();
  assert.ok(answer.ok, JSON.stringify(json));
  return json;
}

async function publish(event) {
  if (!event.specversion) return call('/v1/events/publish', event);
  return call('/v1/cloudevents', event, 'application/cloudevents+json');
}

function subscribe(to, path, format, types, batch) {
  const target = { kind: 'webhook', url: to.url(path), format };
  const delivery = { retry: { schedule: ['100ms', '100ms'] }, batch };
  return call('/v1/subscriptions', { name: `${to.language} ${path}`, filter: { types }, target, delivery });
}

/// The public key of a new pair of Ed25519, in base64.
function publicKey() {
  const { x } = generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' });
  return Buffer.from(x, 'base64url').toString('base64');
}

before(async () => {
  assert.ok(BINARY, 'TIDINGS_BINARY names the binary');
  assert.ok(PYTHON, 'TIDINGS_RECEIVER_PYTHON names a Python that has the libraries');
  const manifests = join(folder, 'manifests');
  mkdirSync(manifests);
  const publishes = [...recorded, ...hard].map((event) => event.type).concat('rotation.key.changed');
  const manifest = { id: 'receivers', version: '1.0.0', events: { publishes } };
  writeFileSync(join(manifests, 'receivers.manifest.json'), JSON.stringify(manifest));
  const data = join(folder, 'data');
  const flags = ['--data', data, '--listen', '127.0.0.1:0', '--manifests', manifests, '--no-demo'];
  url = (await start(BINARY, ['serve', ...flags, '--allow-target', '127.0.0.1'])).match(/http:\S+/)[0];
  const minting = ['token', '--data', data, '--tenant', 'acme', '--module', 'receivers', '--role', 'ADMIN'];
  token = spawnSync(BINARY, minting).stdout.toString().trim();
  receivers = [
    await receiver('node', process.execPath, [join(import.meta.dirname, 'receive.js')]),
    await receiver('python', PYTHON, [join(import.meta.dirname, 'receive.py')]),
  ];
});

after(() => {
  for (const child of processes) child.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

/// The event's data as receivers tell it.
function told(event) {
  return event.data_base64 ? { base64: event.data_base64 } : event.data;
}

function compare(format, event, receipt, got) {
  if (format === 'platform-event') {
    const { eventId, eventKey, tenantId, payload, occurredAt } = got;
    assert.deepEqual(
      { eventId, eventKey, tenantId, payload },
      { eventId: receipt.eventId, eventKey: event.type, tenantId: 'acme', payload: event.data ?? event.data_base64 },
    );
    assert.ok(!Number.isNaN(Date.parse(occurredAt)), occurredAt);
    return;
  }
  assert.deepEqual(got.data, told(event));
  const { data, data_base64, time, ...attributes } = event;
  for (const [name, value] of Object.entries({ ...attributes, specversion: '1.0', tenantid: 'acme' })) {
    assert.equal(got[name], value, name);
  }
  if (time) assert.equal(Date.parse(got.time), Date.parse(time));
}

test('both libraries verify and read every format, also what has to be sent twice', async () => {
  assert.ok(recorded.length > 30, `${recorded.length} examples`);
  const events = [...recorded, ...hard];
  const subscriptions = [];
  for (const to of receivers) {
    for (const format of FORMATS) {
      const made = await subscribe(to, `/${format}`, format, ['github.**', 'hard.**']);
      const stranger = `whsec_${randomBytes(32).toString('base64')}`;
      await to.expect(`/${format}`, [made.secret, stranger], 3);
      subscriptions.push({ to, format, id: made.id });
    }
  }
  const receipts = new Map();
  for (const event of events) receipts.set(event.type, await publish(event));
  for (const { to, format, id } of subscriptions) {
    const messages = await to.taken(`/${format}`, events.length);
    const attempts = new Map();
    for (const message of messages) {
      const id = message.headers['webhook-id'];
      attempts.set(id, [...(attempts.get(id) ?? []), message]);
    }
    assert.equal(attempts.size, events.length, `${to.language} ${format}: a retry keeps its id`);
    assert.equal(messages.length, events.length + 3);
    for (const event of events) {
      const receipt = receipts.get(event.type);
      const all = attempts.get(`${receipt.eventId}_${id}`);
      assert.ok(all, `${to.language} ${format}: ${event.type} has not come`);
      for (const { headers, verified, event: got } of all) {
        assert.deepEqual(verified, [true, false], `${to.language} ${format} ${event.type}`);
        assert.equal(headers['tidings-subscription'], id);
        compare(format, event, receipt, got);
      }
      assert.equal(new Set(all.map(({ headers }) => headers['tidings-sequence'])).size, 1);
    }
    const sequences = messages.filter(({ status }) => status < 300).map(({ headers }) => +headers['tidings-sequence']);
    const gapless = Array.from(events, (_, index) => index + 1);
    assert.deepEqual(sequences.sort((a, b) => a - b), gapless, `${to.language} ${format}`);
  }
});

test('a batch verifies as one message and is read event by event, also when it has to be sent twice', async () => {
  const batch = { maxEvents: 10, maxWait: '300ms' };
  const made = [];
  for (const to of receivers) {
    for (const format of ['cloudevents-structured', 'platform-event']) {
      const path = `/batch-${format}`;
      const { secret, id } = await subscribe(to, path, format, ['github.**'], batch);
      const stranger = `whsec_${randomBytes(32).toString('base64')}`;
      await to.expect(path, [secret, stranger], 1);
      made.push({ to, format, path, id });
    }
  }
  const receipts = new Map();
  for (const event of recorded) receipts.set(event.type, await publish(event));
  for (const { to, format, path, id } of made) {
    const where = `${to.language} ${path}`;
    let messages;
    const events = () => messages.filter(({ status }) => status < 300).flatMap(({ event }) => event);
    for (let count = 1; !messages || events().length < recorded.length; count++) messages = await to.taken(path, count);
    const failed = messages.find(({ status }) => status >= 300);
    const again = messages.find((message) => message !== failed && message.headers['webhook-id'] === failed.headers['webhook-id']);
    assert.deepEqual(again.event, failed.event, `${where}: the same events again`);
    for (const { headers, verified } of messages) {
      assert.deepEqual(verified, [true, false], where);
      assert.equal(headers['tidings-subscription'], id);
    }
    const known = new Map(recorded.map((event) => [event.type, event]));
    for (const event of events()) {
      const type = event.type ?? event.eventKey;
      compare(format, known.get(type), receipts.get(type), event);
    }
    const sequences = events().map((event) => Number(event.tidingssequence ?? event.sequence));
    const gapless = Array.from(recorded, (_, index) => index + 1);
    assert.deepEqual(sequences.sort((a, b) => a - b), gapless, where);
  }
});

test('during a rotation the old and the new secret verify, also one of Ed25519', async () => {
  for (const to of receivers) {
    const made = await subscribe(to, '/rotation', 'cloudevents-structured', ['rotation.**']);
    const rotate = (body) => call(`/v1/subscriptions/${made.id}/rotate-secret`, body);
    const second = (await rotate({ overlap: '1h' })).secret;
    assert.notEqual(second, made.secret);
    await to.expect('/rotation', [made.secret, second]);
    await publish({ type: 'rotation.key.changed', data: { step: 1 } });
    const [first] = await to.taken('/rotation', 1);
    assert.deepEqual(first.verified, [true, true], to.language);
    assert.match(first.headers['webhook-signature'], /^v1,\S+ v1,\S+$/);

    const third = await rotate({ overlap: '1h', secret: `whsk_${randomBytes(32).toString('base64')}` });
    assert.match(third.secret, /^whpk_/, 'what is shown of a key pair is the public key');
    await to.expect('/rotation', [second, third.secret, `whpk_${publicKey()}`]);
    await publish({ type: 'rotation.key.changed', data: { step: 2 } });
    const [, next] = await to.taken('/rotation', 2);
    assert.deepEqual(next.verified, [true, true, false], to.language);
    assert.match(next.headers['webhook-signature'], /(^| )v1a,/);
    // The one test's subscription is no receiver of the next one's events.
    const headers = { authorization: `Bearer ${token}` };
    const gone = await fetch(`${url}/v1/subscriptions/${made.id}`, { method: 'DELETE', headers });
    assert.equal(gone.status, 204);
  }
});
