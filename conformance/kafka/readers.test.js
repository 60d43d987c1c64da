// Both readers against a real broker: structured and binary records put there by hand, byte by byte.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Admin, Producer, stringSerializers } from '@platformatic/kafka';

const BROKERS = process.env.TIDINGS_TEST_KAFKA;
const READERS = {
  'confluent-kafka in Python': [process.env.TIDINGS_READER_PYTHON, 'read.py'],
  '@platformatic/kafka in Node': [process.execPath, 'read.js'],
};

const topic = `readers.${randomUUID()}.v1`;
const other = `readers.${randomUUID()}.v1`;
const attributes = {
  specversion: '1.0',
  id: 'evt-1',
  type: 'eventzr.marketplace.listing.created.v1',
  source: 'marketplace-svc',
  time: '2026-03-02T12:00:00.000Z',
  datacontenttype: 'application/json',
  subject: 'listing:7',
  tenantid: 'acme',
};
const data = { id: '7', title: 'Küche für 80', price: 4500 };
const { datacontenttype, ...others } = attributes;
const ce = Object.fromEntries(Object.entries(others).map(([name, value]) => [`ce_${name}`, value]));
const STRUCTURED = { 'content-type': 'application/cloudevents+json; charset=UTF-8' };
const structured = JSON.stringify({ ...attributes, data });
const event = { ...attributes, data, partitionkey: 'acme' };

const records = [
  { headers: STRUCTURED, value: structured, event },
  { headers: { 'content-type': datacontenttype, ...ce }, value: JSON.stringify(data), event },
  // The gateway writes the attributes as headers in every case.
  { headers: { ...STRUCTURED, ...ce }, value: structured, event },
  { headers: {}, value: 'no event', event: null },
].map((record) => ({ topic, key: 'acme', partition: 1, ...record }));
records.push({ ...records[0], topic: other, partition: 0 });

before(async () => {
  assert.ok(BROKERS, 'TIDINGS_TEST_KAFKA names the broker');
  const connection = { clientId: 'readers', bootstrapBrokers: BROKERS.split(',') };
  const admin = new Admin(connection);
  await admin.createTopics({ topics: [topic, other], partitions: 3, replicas: 1 });
  await admin.close();
  const producer = new Producer({ ...connection, serializers: stringSerializers });
  for (const { event: _, ...message } of records) await producer.send({ messages: [message], acks: -1 });
  await producer.close();
});

async function read([program, script], ...parameters) {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const { stdout } = await promisify(execFile)(program, [path, ...parameters, '--brokers', BROKERS]);
  return stdout.trim().split('\n').map((line) => JSON.parse(line));
}

for (const [name, reader] of Object.entries(READERS)) {
  test(`${name} reads each record and parses its event, structured or binary`, async () => {
    const lines = await read(reader, topic, other, '--count', String(records.length));
    const offsets = { [topic]: 0, [other]: 0 };
    const expected = records.map(({ value: _, ...record }) => ({ ...record, offset: offsets[record.topic]++ }));
    const place = (line) => `${line.topic} ${line.offset}`;
    const byPlace = (one, two) => place(one).localeCompare(place(two));
    // One writes the time with more digits than the other; it is the same time.
    for (const line of lines) if (line.event) line.event.time = new Date(line.event.time).toISOString();
    assert.deepEqual(lines.sort(byPlace), expected.sort(byPlace));
  });

  test(`${name} fails when fewer records come than asked for`, async () => {
    const failed = read(reader, other, '--count', '2', '--timeout', '5');
    await assert.rejects(failed, /1 of 2 records came in 5/);
  });
}
