// The CRM as an extension of workspaces: it takes signed events at POST /events, and tells the channel `deals` of each deal
// that was closed.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';

import { Webhook, WebhookVerificationError } from 'standardwebhooks';

import type { Tidings } from './tidings.js';

/** The largest body that is read: 1 MB of payload, and what is around it. */
const MAX_BODY_BYTES = 2 * 1024 * 1024;

/** An event as Tidings delivers it to extensions. */
interface PlatformEvent {
  eventId: string;
  eventKey: string;
  schemaVersion: string;
  workspaceId: string;
  tenantId: string;
  actor: string | null;
  payload: unknown;
  occurredAt: string;
}

/** The payload of `crm.deal.closed`. */
interface Deal {
  dealId: string;
  amount: string;
  currency: string;
}

/** What is answered instead of 204. Tidings tries again after all but the first delivery that succeeds. */
class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** A server that verifies with this secret and publishes through this client. */
export function createExtension(secret: string, tidings: Tidings): Server {
  const webhook = new Webhook(secret);
  return createServer((request, response) => {
    handle(request, webhook, tidings).then(
      () => answer(response, 204),
      (error: unknown) => {
        if (error instanceof Refusal) return answer(response, error.status, error.message);
        console.error(error);
        return answer(response, 500, 'It did not work; the log of the extension says why.');
      },
    );
  });
}

async function handle(request: IncomingMessage, webhook: Webhook, tidings: Tidings): Promise<void> {
  if (request.method !== 'POST' || request.url !== '/events') throw new Refusal(404, 'Events go to POST /events.');
  const event = verified(await body(request), request, webhook);
  switch (event.eventKey) {
    case 'crm.deal.closed':
      return dealClosed(event, tidings);
    default:
      // Nobody here waits for it, so trying again would not help.
      return;
  }
}

async function dealClosed(event: PlatformEvent, tidings: Tidings): Promise<void> {
  const deal = event.payload;
  if (!isDeal(deal)) throw new Refusal(422, 'A closed deal has dealId, amount and currency, all of them texts.');
  const notification = {
    channel: 'deals',
    message: `Deal ${deal.dealId} closed for ${deal.amount} ${deal.currency}!`,
    sender: 'crm-bot',
  };
  // The same event may come again; its notification is then a repeat of the first.
  const key = `deal-closed/${event.eventId}`;
  await tidings.publish(event.workspaceId, 'platform.notification', notification, key);
}

function isDeal(payload: unknown): payload is Deal {
  if (typeof payload !== 'object' || payload === null) return false;
  const texts: (keyof Deal)[] = ['dealId', 'amount', 'currency'];
  return texts.every((name) => typeof (payload as Partial<Record<keyof Deal, unknown>>)[name] === 'string');
}

function verified(text: string, request: IncomingMessage, webhook: Webhook): PlatformEvent {
  const header = (name: string): string => String(request.headers[name] ?? '');
  const headers = {
    'webhook-id': header('webhook-id'),
    'webhook-timestamp': header('webhook-timestamp'),
    'webhook-signature': header('webhook-signature'),
  };
  try {
    return webhook.verify(text, headers) as PlatformEvent;
  } catch (error) {
    if (error instanceof WebhookVerificationError) throw new Refusal(401, `The signature does not hold: ${error.message}`);
    throw error;
  }
}

async function body(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new Refusal(413, 'The body is larger than any event.');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function answer(response: ServerResponse, status: number, text?: string): void {
  response.writeHead(status, text === undefined ? {} : { 'Content-Type': 'text/plain; charset=utf-8' });
  response.end(text);
}
