// The shipped catalogues, held against the AsyncAPI schema, the sources they were drawn from, the CloudEvents
// SDK, and, with JSON Schema, against their own examples.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import Ajv from 'ajv';
import Ajv2020 from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { CloudEvent, Kafka } from 'cloudevents';
import { parse } from 'yaml';
import { cpaas, marketplace } from './sources.js';

const require = createRequire(import.meta.url);
// It brings the draft-07 schema along under its own name, so that ajv's copy must stay out.
const asyncapi = new Ajv({ meta: false, validateSchema: false, strict: false, validateFormats: false }).compile(
  require('@asyncapi/specs/schemas/3.0.0.json'),
);
const STRUCTURED = 'application/cloudevents+json';

function read(name) {
  return parse(readFileSync(new URL(`../../examples/catalogs/${name}.asyncapi.yaml`, import.meta.url), 'utf8'));
}

function at(document, { $ref }) {
  return $ref.slice(2).split('/').reduce((node, key) => node[key], document);
}

/** Each channel with its one message, whose references are followed by `check`. */
function entries(document) {
  return Object.values(document.channels).map((channel) => {
    const [reference, ...others] = Object.values(channel.messages);
    assert.deepEqual(others, [], `${channel.address} has one message`);
    const pointer = reference.$ref;
    return { channel, pointer, message: at(document, reference) };
  });
}

/** The schema at a JSON pointer of the document, by the dialect asked for. */
function schema(document, pointer, Dialect) {
  const ajv = new Dialect({ strict: false, allErrors: true });
  formats(ajv);
  return ajv.compile({ components: document.components, $ref: pointer });
}

for (const [name, source] of Object.entries({ cpaas, marketplace })) {
  const document = read(name);
  const topics = entries(document);

  test(`${name}: the document is AsyncAPI 3.0.0`, () => {
    assert.equal(document.asyncapi, '3.0.0');
    assert.ok(asyncapi(document), JSON.stringify(asyncapi.errors?.slice(0, 5), null, 2));
  });

  test(`${name}: it has the source's topics with their senders, and no others`, () => {
    const senders = Object.fromEntries(topics.map(({ channel }) => [channel.address, channel['x-tidings-sender']]));
    const published = Object.fromEntries(source.published.map((topic) => [topic, source.service]));
    assert.deepEqual(senders, { ...published, ...source.consumed });
    assert.equal(topics.length, { cpaas: 7, marketplace: 18 }[name]);
  });

  test(`${name}: operations, senders and receivers say the same`, () => {
    assert.equal(document.info['x-tidings-service'], source.service);
    const actions = Object.values(document.operations).map(({ action, channel }) => [
      at(document, channel).address,
      action,
    ]);
    const expected = topics.map(({ channel }) => [
      channel.address,
      channel['x-tidings-sender'] === source.service ? 'send' : 'receive',
    ]);
    assert.deepEqual(actions.sort(), expected.sort());
    for (const { channel } of topics) {
      const receivers = channel.address in source.consumed ? [source.service] : undefined;
      assert.deepEqual(channel['x-tidings-receivers'], receivers, channel.address);
    }
    for (const operation of source.operations) assert.equal(document.operations[operation]?.action, 'send');
  });

  test(`${name}: the source's example stands there word for word`, () => {
    const { message } = topics.find(({ channel }) => channel.address === source.given.type);
    const given = message.examples.find((example) => example.name === 'given');
    assert.deepEqual(given.payload, source.given);
  });

  for (const { channel, pointer, message } of topics) {
    const { address } = channel;

    test(`${address}: its examples satisfy its schemas, and the data each required member`, () => {
      assert.equal(message.contentType, STRUCTURED);
      assert.ok(message.examples.length > 0);
      for (const Dialect of [Ajv2020, Ajv]) {
        const envelope = schema(document, `${pointer}/payload`, Dialect);
        const data = schema(document, `${pointer}/payload/properties/data`, Dialect);
        for (const { payload } of message.examples) {
          assert.ok(envelope(payload), JSON.stringify(envelope.errors));
          assert.ok(data(payload.data), JSON.stringify(data.errors));
          assert.ok(envelope({ ...payload, tenantid: 'acme' }), 'the gateway adds tenantid');
          assert.ok(data({ ...payload.data, unheardOf: 1 }), 'members that nobody named are let through');
          for (const wrong of [{ type: 'eventzr.other.v1' }, { source: 'other-svc' }, { data: 'text' }]) {
            assert.ok(!envelope({ ...payload, ...wrong }), JSON.stringify(wrong));
          }
          assert.ok(!data({}), 'no data is complete without a member');
          for (const [member, value] of Object.entries(payload.data)) {
            assert.ok(!data({ ...payload.data, [member]: typeof value === 'object' ? 7 : {} }), member);
          }
        }
      }
    });

    test(`${address}: its examples are CloudEvents, structured and binary`, () => {
      for (const { name: label, payload } of message.examples) {
        const event = new CloudEvent(payload);
        assert.ok(event.validate());
        assert.equal(event.type, address);
        assert.equal(event.source, channel['x-tidings-sender']);
        const structured = { headers: { 'content-type': STRUCTURED }, value: JSON.stringify(payload) };
        const binary = Kafka.binary(event);
        const carried = { ...binary, value: JSON.stringify(binary.value) };
        for (const record of [structured, carried]) {
          assert.deepEqual(JSON.parse(Kafka.toEvent(record).toString()), payload);
        }
        const members = { tenantid: payload.tenantid ?? payload.data.tenantId, data: payload.data };
        const subject = message['x-tidings-subject'].replace(/\{(\w+)(?:\.(\w+))?\}/g, (_, first, second) =>
          second ? members[first][second] : members[first],
        );
        // The marketplace's own example has two different placeholders for one listing.
        if (label !== 'given' || name === 'cpaas') assert.equal(payload.subject, subject);
      }
    });
  }
}
