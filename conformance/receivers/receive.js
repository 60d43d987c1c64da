// A receiver as a tenant would write it in Node: standardwebhooks verifies, the CloudEvents SDK reads.
//
// Prints its port, then one line of JSON for each message: path, headers, status, `verified` (for each of the path's
// keys, in their order) and `event`, a list of them of a batch. `PUT /path {keys, failures}` says what messages there are verified with, and how
// many are answered with 500 first.
import { createHmac, createPublicKey, timingSafeEqual, verify } from 'node:crypto';
import { createServer } from 'node:http';
import { HTTP } from 'cloudevents';
import { Webhook } from 'standardwebhooks';

// What stands before the 32 bytes of an Ed25519 key in its DER form (RFC 8410).
const ED25519 = Buffer.from('302a300506032b6570032100', 'hex');
const expected = new Map();

function signatures(headers, version) {
  const entries = headers['webhook-signature'].split(' ').map((entry) => entry.split(','));
  return entries.filter(([of]) => of === version).map(([, signature]) => Buffer.from(signature, 'base64'));
}

function isText(body) {
  return Buffer.from(body.toString()).equals(body);
}

function holds(key, headers, body) {
  const signed = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`), body]);
  const bytes = Buffer.from(key.slice(key.indexOf('_') + 1), 'base64');
  if (key.startsWith('whpk_')) {
    const der = createPublicKey({ key: Buffer.concat([ED25519, bytes]), format: 'der', type: 'spki' });
    return signatures(headers, 'v1a').some((signature) => verify(null, signed, der, signature));
  }
  if (!isText(body)) {
    // The library makes text of a body before it verifies it, which changes this one.
    const own = createHmac('sha256', bytes).update(signed).digest();
    return signatures(headers, 'v1').some((signature) => timingSafeEqual(own, signature));
  }
  try {
    new Webhook(key).verify(body, headers, { jsonParse: false });
    return true;
  } catch (error) {
    if (error.message === 'No matching signature found') return false;
    throw error;
  }
}

function plain(data) {
  if (data === undefined || data === null) return null;
  return ArrayBuffer.isView(data) ? { base64: Buffer.from(data).toString('base64') } : data;
}

function eventOf(headers, body) {
  const structured = headers['content-type'].startsWith('application/cloudevents');
  if (!structured && !headers['ce-specversion']) return JSON.parse(body);
  const read = HTTP.toEvent({ headers, body: isText(body) ? body.toString() : body });
  return Array.isArray(read) ? read.map((event) => told(event, true)) : told(read, structured);
}

function told(event, structured) {
  const { data, data_base64, ...attributes } = event.toJSON();
  if (!structured) {
    // The SDK leaves the percent-encoding of the HTTP binding (3.1.3.2) to its caller.
    for (const [name, value] of Object.entries(attributes)) attributes[name] = decodeURIComponent(value);
  }
  return { ...attributes, data: plain(event.data) };
}

async function answer(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces);
  if (request.method === 'PUT') {
    expected.set(request.url, JSON.parse(body));
    return 204;
  }
  const path = expected.get(request.url);
  const status = path.failures-- > 0 ? 500 : 204;
  const { headers, url } = request;
  const verified = path.keys.map((key) => holds(key, headers, body));
  const line = { path: url, headers, status, verified, event: eventOf(headers, body) };
  process.stdout.write(`${JSON.stringify(line)}\n`);
  return status;
}

const server = createServer((request, response) => {
  answer(request).then(
    (status) => response.writeHead(status).end(),
    (error) => {
      process.stdout.write(`${JSON.stringify({ path: request.url, fault: error.stack })}\n`);
      response.writeHead(400).end();
    },
  );
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`));
