// The whole story of source C: a member closes a deal, the CRM hears of it over HTTP and tells the chat, which knows nothing
// of the CRM, and the message stands in the channel `deals`.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';

import { Webhook } from 'standardwebhooks';

const BINARY = process.env.TIDINGS_BINARY;
const PATIENCE_MS = 30_000;
const WORKSPACE = '/api/workspaces/ws-1';
const DEAL = { dealId: 'deal-123', amount: '5000.00', currency: 'USD' };

const folder = mkdtempSync(join(tmpdir(), 'tidings-crm-'));
const processes = [];
let url;
let root;
let ada;
let secret;
let crm;

/// Starts a program; answers its first line.
async function start(command, args, env) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...env } });
  processes.push(child);
  const lines = createInterface({ input: child.stdout });
  return new Promise((resolve, reject) => {
    lines.once('line', resolve);
    lines.once('close', () => reject(new Error(`${command} said nothing`)));
  });
}

function token(...args) {
  const made = spawnSync(BINARY, ['token', '--data', folder, '--tenant', 'acme', ...args], { encoding: 'utf8' });
  assert.equal(made.status, 0, made.stderr);
  return made.stdout.trim();
}

async function call(method, path, bearer, body) {
  const headers = { Authorization: `Bearer ${bearer}`, 'Content-Type': 'application/json' };
  const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, body: text ? JSON.parse(text) : null, text };
}

async function expect(status, ...request) {
  const answer = await call(...request);
  assert.equal(answer.status, status, `${request[0]} ${request[1]}: ${answer.text}`);
  return answer.body;
}

/// What `look` finds, once it finds something.
async function eventually(what, look) {
  const late = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > late) throw new Error(`${what} did not come`);
    await wait(20);
  }
}

async function deals() {
  const { status, body } = await call('GET', `${WORKSPACE}/channels/deals/messages`, ada);
  return status === 200 ? body.items : [];
}

before(async () => {
  const arguments_ = ['serve', '--data', folder, '--listen', '127.0.0.1:0', '--allow-target', '127.0.0.1'];
  const environment = { TIDINGS_LOG__LEVEL: 'error', TIDINGS_DELIVERY__RETRY_SCHEDULE: '["50ms"]' };
  url = (await start(BINARY, arguments_, environment)).replace('Tidings listens on ', '');
  root = token('--user', 'root', '--role', 'ADMIN');
  ada = token('--user', 'ada');
  const workspace = '/v1/tenants/acme/workspaces/ws-1';
  await expect(201, 'PUT', workspace, root);
  for (const member of ['ada', 'crm']) {
    await expect(200, 'PUT', `${workspace}/members/${member}`, root, { role: 'MEMBER' });
  }

  // The secret is known when the extension is; where it listens, only when it runs. So it is written twice.
  const extension = { kind: 'EXTERNAL_SERVICE', installed: true, enabled: false };
  const elsewhere = { ...extension, serviceBaseUrl: 'http://127.0.0.1:1' };
  await expect(200, 'PUT', `${WORKSPACE}/extensions/crm`, root, elsewhere);
  const gets = `${WORKSPACE}/extensions/crm/subscriptions/crm.deal.closed`;
  ({ secret } = await expect(200, 'PUT', gets, root));
  const settings = { TIDINGS_URL: url, TIDINGS_TOKEN: token('--user', 'crm'), TIDINGS_SECRET: secret, PORT: '0' };
  crm = await start('node', ['dist/main.js'], settings);
  const there = { ...extension, enabled: true, serviceBaseUrl: crm };
  await expect(200, 'PUT', `${WORKSPACE}/extensions/crm`, root, there);
});

after(() => {
  for (const child of processes) child.kill('SIGTERM');
  rmSync(folder, { recursive: true, force: true });
});

test('a deal that a member closes stands in the channel deals', async () => {
  const deal = { eventKey: 'crm.deal.closed', schemaVersion: '1.0', actor: 'ada', payload: DEAL };
  const { code, eventId } = await expect(200, 'POST', `${WORKSPACE}/events/publish`, ada, deal);
  assert.equal(code, 'SUCCESS');
  const [message] = await eventually('a message', async () => {
    const items = await deals();
    return items.length > 0 && items;
  });
  assert.equal(message.message, 'Deal deal-123 closed for 5000.00 USD!');
  assert.equal(message.sender, 'crm-bot');

  // The deal was delivered to the CRM; the notification made the chat tell of a message.
  const trace = await eventually('the attempt', async () => {
    const found = await expect(200, 'GET', `/v1/events/${eventId}/trace`, ada);
    return found.deliveries.length > 0 && found;
  });
  assert.equal(trace.deliveries[0].attempts[0].status, 204);
  const told = await eventually('an event', async () => {
    const page = await expect(200, 'GET', '/v1/events?type=chat.message.received', ada);
    return page.items[0];
  });
  assert.equal(told.causationid, message.id);
  const { caused } = await expect(200, 'GET', `/v1/events/${message.id}/trace`, ada);
  assert.deepEqual(caused, [told.eventId]);
});

test('a deal that is none is a dead letter that says so', async () => {
  const deal = { eventKey: 'crm.deal.closed', payload: { dealId: 'deal-124' } };
  const { eventId } = await expect(200, 'POST', `${WORKSPACE}/events/publish`, ada, deal);
  const letter = await eventually('a dead letter', async () => {
    const page = await expect(200, 'GET', `${WORKSPACE}/dead-letters`, ada);
    return page.items.find((item) => item.eventId === eventId);
  });
  assert.match(letter.lastError, /422/);
});

test('an event that comes again is posted once, and a forged one never', async () => {
  const before = (await deals()).length;
  const event = {
    eventId: '01900000-0000-7000-8000-000000000000', eventKey: 'crm.deal.closed', schemaVersion: '1.0.0',
    workspaceId: 'ws-1', tenantId: 'acme', actor: 'ada', payload: { ...DEAL, dealId: 'deal-125' },
    occurredAt: new Date().toISOString(),
  };
  const text = JSON.stringify(event);
  const send = (key, body) => {
    const at = new Date();
    const headers = {
      'webhook-id': 'm-1', 'webhook-timestamp': String(Math.floor(at / 1000)),
      'webhook-signature': new Webhook(key).sign('m-1', at, text),
    };
    return fetch(`${crm}/events`, { method: 'POST', headers, body });
  };
  assert.equal((await send(secret, text)).status, 204);
  assert.equal((await send(secret, text)).status, 204);
  assert.equal((await send(secret, text.replace('5000.00', '9000.00'))).status, 401);
  assert.equal((await send(`whsec_${Buffer.alloc(32).toString('base64')}`, text)).status, 401);
  assert.equal((await fetch(`${crm}/events`, { method: 'POST', body: text })).status, 401);
  assert.equal((await fetch(`${crm}/elsewhere`)).status, 404);
  const after = await eventually('a message', async () => {
    const items = await deals();
    return items.length > before && items;
  });
  const of = after.filter(({ message }) => message.startsWith('Deal deal-125'));
  assert.equal(of.length, 1);
});
