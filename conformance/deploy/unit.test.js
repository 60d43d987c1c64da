// The systemd unit, as systemd reads it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';

const BINARY = process.env.TIDINGS_BINARY;
// What `systemd-analyze security` makes of it at most, in tenths; a unit without any of its limits has 96.
const EXPOSURE = 15;
const unit = readFileSync(new URL('../../deploy/tidings.service', import.meta.url), 'utf8');
const folder = mkdtempSync(join(tmpdir(), 'tidings-unit-'));
const file = join(folder, 'tidings.service');
const [, installed, args] = unit.match(/^ExecStart=(\S+) (.*)$/m);

after(() => rmSync(folder, { recursive: true, force: true }));

function analyze(...words) {
  writeFileSync(file, unit.replace(`ExecStart=${installed} `, `ExecStart=${BINARY} `));
  const { status, stdout, stderr } = spawnSync('systemd-analyze', [...words, file], { encoding: 'utf8' });
  assert.equal(status, 0, stdout + stderr);
  return stderr;
}

test('systemd knows each line of it', () => {
  assert.equal(analyze('verify', '--man=no'), '');
});

test('it gives up what it does not need', () => {
  analyze('security', '--offline=true', `--threshold=${EXPOSURE}`);
});

test('the gateway knows the arguments', () => {
  const { status, stderr } = spawnSync(BINARY, [...args.split(' '), '--help'], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
});
