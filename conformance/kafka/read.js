// Reads topics as a consumer in Node would: @platformatic/kafka, and the CloudEvents SDK for what it finds.
//
//     read.js TOPIC... --brokers HOST:PORT[,...] --count N [--timeout SECONDS]
//
// Prints one line of JSON for each of the first N records: topic, partition, offset, key, headers, and `event`,
// which is null where the record is no CloudEvent. Fails when N records have not come within the timeout.
import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Consumer, MessagesStreamModes, stringDeserializers } from '@platformatic/kafka';
import { Kafka } from 'cloudevents';

const { values, positionals: topics } = parseArgs({
  allowPositionals: true,
  options: { brokers: { type: 'string' }, count: { type: 'string' }, timeout: { type: 'string', default: '30' } },
});
const count = Number(values.count);
if (topics.length === 0 || !values.brokers || !Number.isInteger(count)) {
  console.error('read.js TOPIC... --brokers HOST:PORT[,...] --count N [--timeout SECONDS]');
  process.exit(2);
}

function line({ topic, partition, offset, key, headers: pairs, value }) {
  const headers = Object.fromEntries(pairs);
  const record = { key, headers, value, body: value };
  const event = Kafka.isEvent(record) ? JSON.parse(Kafka.toEvent(record).toString()) : null;
  return JSON.stringify({ topic, partition, offset: Number(offset), key: key ?? null, headers, event });
}

let seen = 0;
setTimeout(() => {
  console.error(`${seen} of ${count} records came in ${values.timeout} s`);
  process.exit(1);
}, Number(values.timeout) * 1000).unref();

const consumer = new Consumer({
  groupId: `read-${randomUUID()}`,
  clientId: 'read',
  bootstrapBrokers: values.brokers.split(','),
  deserializers: stringDeserializers,
});
const stream = await consumer.consume({ topics, mode: MessagesStreamModes.EARLIEST, autocommit: false, maxWaitTime: 100 });
for await (const message of stream) {
  console.log(line(message));
  seen += 1;
  if (seen === count) break;
}
await consumer.close(true);
