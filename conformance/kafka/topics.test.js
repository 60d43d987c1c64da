// Every topic of the shipped catalogues: published through the gateway by its sender, on a real Kafka, in structured
// and in binary mode, and read by other people's consumers.
import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { compatibilityPartitioner } from '@platformatic/kafka';
import { parse } from 'yaml';

const BINARY = process.env.TIDINGS_BINARY;
const BROKERS = process.env.TIDINGS_TEST_KAFKA;
const READERS = {
  'confluent-kafka in Python': [process.env.TIDINGS_READER_PYTHON, 'read.py'],
  '@platformatic/kafka in Node': [process.execPath, 'read.js'],
};
const STRUCTURED = 'application/cloudevents+json';
const PARTITIONS = 3;
// Keys that are not all in one partition.
const TENANTS = [1, 2, 3, 4].map((number) => `tenant-${number}-${randomUUID()}`);

const catalogs = Object.fromEntries(
  ['cpaas', 'marketplace'].map((name) => {
    const path = new URL(`../../examples/catalogs/${name}.asyncapi.yaml`, import.meta.url);
    return [name, readFileSync(path, 'utf8')];
  }),
);

const at = (document, { $ref }) => $ref.slice(2).split('/').reduce((node, key) => node[key], document);

/** Each topic with its sender and an example of the whole envelope. */
const topics = Object.values(catalogs).flatMap((text) => {
  const document = parse(text);
  return Object.values(document.channels).map((channel) => {
    const message = at(document, Object.values(channel.messages)[0]);
    const template = message['x-tidings-subject'];
    return { topic: channel.address, sender: channel['x-tidings-sender'], template, given: message.examples[0].payload };
  });
});

/** The same catalogue in binary mode: the payload is the data alone. */
function binary(text) {
  const document = parse(text);
  document.defaultContentType = 'application/json';
  for (const message of Object.values(document.components.messages)) {
    message.contentType = 'application/json';
    message.payload = message.payload.properties.data;
    for (const example of message.examples) example.payload = example.payload.data;
  }
  return JSON.stringify(document);
}

const MODES = { structured: (text) => text, binary };
const folders = [];
const children = [];
const servers = {};

class Gateway {
  static async start(mode, index) {
    const gateway = new Gateway();
    gateway.prefix = `topics.${randomUUID()}.`;
    gateway.folder = mkdtempSync(join(tmpdir(), 'tidings-topics-'));
    folders.push(gateway.folder);
    const flags = ['--data', gateway.folder, '--listen', '127.0.0.1:0', '--no-demo', '--bus', 'kafka'];
    const env = {
      ...process.env,
      TIDINGS_BUS__KAFKA__BROKERS: BROKERS,
      TIDINGS_BUS__KAFKA__TOPIC_PREFIX: gateway.prefix,
      TIDINGS_BUS__PARTITIONS: String(PARTITIONS),
      TIDINGS_RECEIPTS__URL: `${process.env.TIDINGS_TEST_VALKEY}/${index}`,
      TIDINGS_LOG__LEVEL: 'error',
    };
    const child = spawn(BINARY, ['serve', ...flags], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(child);
    for await (const line of createInterface({ input: child.stdout })) {
      gateway.url = line.match(/http:\S+/)?.[0];
      if (gateway.url) break;
    }
    const operator = gateway.token('--role', 'OPERATOR');
    for (const [name, text] of Object.entries(catalogs)) {
      const answer = await gateway.send('PUT', `/v1/catalogs/${name}`, operator, 'application/yaml', MODES[mode](text));
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
    }
    return gateway;
  }

  token(...flags) {
    const minted = spawnSync(BINARY, ['token', '--data', this.folder, ...flags]);
    assert.equal(minted.status, 0, minted.stderr.toString());
    return minted.stdout.toString().trim();
  }

  async send(method, path, token, type, body) {
    const headers = { authorization: `Bearer ${token}`, 'content-type': type };
    const response = await fetch(this.url + path, { method, headers, body });
    return { status: response.status, body: await response.json() };
  }
}

/** What the template of a catalogue makes of an event, written down here once more. */
function subject(template, tenant, data) {
  return template.replace(/\{(\w+)(?:\.(\w+))?\}/g, (_, first, second) => (second ? data[second] : tenant));
}

/** Publishes each topic's example twice: as the CloudEvent that it is, and its data over REST. */
async function publish(gateway) {
  const published = [];
  for (const [number, { topic, sender, template, given }] of topics.entries()) {
    const tenant = TENANTS[number % TENANTS.length];
    const token = gateway.token('--tenant', tenant, '--module', sender);
    const common = { ...given, tenantid: tenant, partitionkey: tenant };
    const place = { topic: gateway.prefix + topic, key: tenant };
    const partition = compatibilityPartitioner({}, Buffer.from(tenant)) % PARTITIONS;

    const cloud = await gateway.send('POST', '/v1/cloudevents', token, STRUCTURED, JSON.stringify(given));
    assert.equal(cloud.status, 201, JSON.stringify(cloud.body));
    published.push({ ...place, partition, receipt: cloud.body, event: common });

    const body = JSON.stringify({ type: topic, data: given.data });
    const rest = await gateway.send('POST', '/v1/events/publish', token, 'application/json', body);
    assert.equal(rest.status, 201, JSON.stringify(rest.body));
    const event = { ...common, id: rest.body.eventId, subject: subject(template, tenant, given.data) };
    published.push({ ...place, partition, receipt: rest.body, event, made: true });
  }
  return published;
}

async function read([program, script], prefix, count) {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const names = topics.map(({ topic }) => prefix + topic);
  const limits = ['--brokers', BROKERS, '--count', String(count), '--timeout', '60'];
  const { stdout } = await promisify(execFile)(program, [path, ...names, ...limits], { maxBuffer: 1 << 26 });
  return stdout.trim().split('\n').map((line) => JSON.parse(line));
}

before(async () => {
  assert.ok(BINARY && BROKERS && process.env.TIDINGS_TEST_VALKEY, 'scripts/topics says where everything is');
  assert.equal(topics.length, 25);
  for (const [index, mode] of Object.keys(MODES).entries()) {
    const gateway = await Gateway.start(mode, 4000 + index);
    servers[mode] = { gateway, published: await publish(gateway) };
  }
});

after(() => {
  for (const child of children) child.kill('SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

for (const mode of Object.keys(MODES)) {
  for (const [name, reader] of Object.entries(READERS)) {
    test(`${mode}: ${name} reads every topic's events, each attribute, the data, key and partition`, async () => {
      const { gateway, published } = servers[mode];
      const lines = await read(reader, gateway.prefix, published.length);
      assert.equal(lines.length, published.length);
      for (const { topic, key, partition, receipt, event, made } of published) {
        assert.deepEqual([receipt.partition, gateway.prefix + receipt.topic], [partition, topic]);
        const found = lines.find(
          (line) => line.topic === topic && line.partition === partition && line.offset === receipt.offset,
        );
        assert.ok(found, `${topic} ${partition} ${receipt.offset}`);
        assert.equal(found.key, key);
        const wanted = mode === 'structured' ? STRUCTURED : 'application/json';
        assert.equal(found.headers['content-type'].split(';')[0], wanted);
        // The gateway says the time of what came without; one reader writes it with more digits.
        const time = made ? new Date(found.event.time).toISOString() : event.time;
        assert.ok(!made || Math.abs(Date.parse(time) - Date.now()) < 600_000, time);
        const same = { ...found.event, time: new Date(found.event.time).toISOString() };
        assert.deepEqual(same, { ...event, time });
      }
    });
  }
}
