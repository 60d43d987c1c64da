// The compose file, as Compose reads it.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { VARIABLES, config, services } from './compose.js';

test('it asks for each variable by name, and for no other', () => {
  const { status, stderr } = config(VARIABLES);
  assert.deepEqual([status, stderr], [0, '']);
  for (const name of Object.keys(VARIABLES)) {
    for (const value of [undefined, '']) {
      const without = config({ ...VARIABLES, [name]: value });
      assert.notEqual(without.status, 0, name);
      assert.match(without.stderr, new RegExp(`required variable ${name} is missing a value: set it`));
    }
  }
});

test('the gateway waits for servers that can say that they are well', () => {
  const { tidings, ...servers } = services();
  assert.deepEqual(Object.keys(tidings.depends_on).sort(), Object.keys(servers).sort());
  for (const [name, { condition }] of Object.entries(tidings.depends_on)) {
    assert.equal(condition, 'service_healthy');
    assert.ok(servers[name].healthcheck.test.length > 1, name);
  }
});

test('it builds from what is here, and shows nothing but the gateway, on loopback', () => {
  const { tidings, ...servers } = services();
  assert.ok(existsSync(join(tidings.build.context, tidings.build.dockerfile)));
  assert.deepEqual(tidings.ports.map((port) => port.host_ip), ['127.0.0.1']);
  for (const { ports } of Object.values(servers)) assert.equal(ports, undefined);
});
