// The one call of Tidings that the extension makes: publishing an event in a workspace.

/** Longer than Tidings takes when all is well, and shorter than it waits for us. */
const TIMEOUT_MS = 10_000;

export class Tidings {
  readonly #url: string;
  readonly #token: string;

  constructor(url: string, token: string) {
    this.#url = url.replace(/\/+$/, '');
    this.#token = token;
  }

  /** Publishes once for each key, however often it is called with it within 24 hours. */
  async publish(workspaceId: string, eventKey: string, payload: object, idempotencyKey: string): Promise<void> {
    const answer = await fetch(`${this.#url}/api/workspaces/${encodeURIComponent(workspaceId)}/events/publish`, {
      method: 'POST',
      headers: {
        Authorization: `Bearer ${this.#token}`,
        'Content-Type': 'application/json',
        'Idempotency-Key': idempotencyKey,
      },
      body: JSON.stringify({ eventKey, actor: 'crm', payload }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!answer.ok) throw new Error(`Tidings answered ${answer.status}: ${await answer.text()}`);
  }
}
