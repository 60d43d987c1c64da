// What Compose makes of the compose file.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';

const FILE = fileURLToPath(new URL('../../deploy/compose.yaml', import.meta.url));

/** The variables that the file asks for, as its first lines make them. */
export const VARIABLES = {
  TIDINGS_AUTH__SHARED_SECRET: randomBytes(32).toString('hex'),
  TIDINGS_SECRETS__KEY: randomBytes(32).toString('base64'),
  POSTGRES_PASSWORD: randomBytes(16).toString('hex'),
};

/** What Compose answers when it is asked for the whole configuration with these variables alone. */
export function config(variables) {
  const args = ['-f', FILE, 'config', '--format', 'json'];
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, ...variables };
  const run = spawnSync(process.env.TIDINGS_COMPOSE, args, { env, encoding: 'utf8' });
  assert.ifError(run.error);
  return run;
}

/** The services, with all variables given. */
export function services() {
  const { status, stdout, stderr } = config(VARIABLES);
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout).services;
}
