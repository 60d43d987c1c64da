// The installation of the compose file, and the chart's pods on the same servers, without a container engine: each
// server is started with the settings of its service as its image would hand them on, at its own name and port, and is
// well when the file's own health check says so. scripts/deploy gives this test namespaces in which these names, the
// ports and /var/lib are free.
import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { render } from './chart.js';
import { VARIABLES, services } from './compose.js';

const FOLDER = process.env.TIDINGS_DEPLOY_FOLDER;
const BINARY = process.env.TIDINGS_BINARY;
const POSTGRES = process.env.TIDINGS_POSTGRES_BIN;
const CLASSES = `${process.env.TIDINGS_KAFKA_LIBS}/*`;
const CLUSTER_ID = 'dGlkaW5ncy1kZXBsb3ktMA';
const PATIENCE_MS = 180_000;
// Every gateway runs as the image's user, who may do nothing beside.
const UNPRIVILEGED = ['--reuid=10001', '--regid=10001', '--clear-groups', '--no-new-privs', '--inh-caps=-all'];

const composed = services();
const image = readFileSync(new URL('../../deploy/Dockerfile', import.meta.url), 'utf8').match(/^ENV ((.*\\\n)*.*)$/m)[1];
const IMAGE = Object.fromEntries(image.split(/[\s\\]+/).map((variable) => variable.split(/=(.*)/, 2)));
const base = { PATH: `${POSTGRES}:${process.env.PATH}`, HOME: FOLDER, LANG: 'C' };
const children = [];

/** Starts a program, whose output goes to a file of its own. */
function start(program, args, env) {
  const output = openSync(join(FOLDER, `output-${children.length}`), 'w');
  const child = spawn(program, args, { env: { ...base, ...env }, cwd: FOLDER, stdio: ['ignore', output, output] });
  child.said = () => readFileSync(join(FOLDER, `output-${children.indexOf(child)}`), 'utf8').slice(-4000);
  child.ended = new Promise((resolve) => child.once('exit', (...how) => resolve(how)));
  children.push(child);
  return child;
}

function run(program, args, env) {
  const { status, stdout, stderr } = spawnSync(program, args, { env: { ...base, ...env }, cwd: FOLDER, encoding: 'utf8' });
  assert.equal(status, 0, `${program} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

/** The folder of a service's only volume, which lies below /var/lib. */
function volume({ volumes: [{ target }] }, owner) {
  mkdirSync(target, { recursive: true });
  if (owner) run('chown', [owner, target]);
  return target;
}

/** Asks until `look` takes the answer. */
async function eventually(what, child, look) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const fault = await look().then(() => undefined, (error) => error);
    if (fault === undefined) return;
    assert.deepEqual([child.exitCode, child.signalCode], [null, null], `${what} has ended: ${child.said()}`);
    assert.ok(Date.now() < deadline, `${what}: ${fault.message}\n${child.said()}`);
    await setTimeout(100);
  }
}

/** What a health check's program is called here. */
const CHECKS = {
  '/opt/kafka/bin/kafka-topics.sh': ['java', '-cp', CLASSES, 'org.apache.kafka.tools.TopicCommand'],
  pg_isready: ['pg_isready'],
  'valkey-cli': ['redis-cli'],
};

function healthy(name, child) {
  const [kind, program, ...args] = composed[name].healthcheck.test;
  assert.equal(kind, 'CMD');
  const [command, ...first] = CHECKS[program];
  const look = () => promisify(execFile)(command, [...first, ...args], { env: base, timeout: 30_000 });
  return eventually(name, child, look);
}

/** Kafka's image has this class make the settings of the variables, and format the folder. */
function startKafka() {
  const service = composed.kafka;
  volume(service);
  const folders = ['default-configs-dir', 'mounted-configs-dir', 'final-configs-dir'].flatMap((name) => {
    mkdirSync(join(FOLDER, name));
    return [`--${name}`, join(FOLDER, name)];
  });
  const log = 'Configuration:\n  Loggers:\n    Root: {level: WARN}\n';
  for (const name of ['log4j2.yaml', 'tools-log4j2.yaml']) writeFileSync(join(folders[1], name), log);
  const variables = { ...service.environment, CLUSTER_ID };
  run('java', ['-cp', CLASSES, 'kafka.docker.KafkaDockerWrapper', 'setup', ...folders], variables);
  return start('java', ['-Xmx512m', '-cp', CLASSES, 'kafka.Kafka', join(folders[5], 'server.properties')], {});
}

/** As the image's first start does: a superuser by name and password, and a database by its name. */
async function startPostgres() {
  const { POSTGRES_USER: user, POSTGRES_PASSWORD: password } = composed.postgres.environment;
  const data = volume(composed.postgres, 'postgres:');
  const secret = join(FOLDER, 'password');
  writeFileSync(secret, password, { mode: 0o644 });
  const as = ['--reuid=postgres', '--regid=postgres', '--clear-groups'];
  const initial = ['-U', user, '-A', 'scram-sha-256', `--pwfile=${secret}`, '-E', 'UTF8', '-D', data];
  run('setpriv', [...as, `${POSTGRES}/initdb`, '--no-sync', '--locale=C', ...initial], {});
  const server = start('setpriv', [...as, `${POSTGRES}/postgres`, '-D', data, '-k', ''], {});
  await healthy('postgres', server);
  run('psql', ['-h', 'postgres', '-U', user, '-d', 'postgres', '-c', `CREATE DATABASE ${user}`], { PGPASSWORD: password });
}

function startValkey() {
  const [program, ...args] = composed.valkey.command;
  assert.equal(program, 'valkey-server');
  return start(process.env.TIDINGS_VALKEY_SERVER, [...args, '--dir', FOLDER], {});
}

/** Starts a gateway with exactly this environment. */
async function gateway(environment, port, probes, args = ['serve']) {
  const child = start('setpriv', [...UNPRIVILEGED, '--bounding-set=-all', BINARY, ...args], environment);
  const url = `http://127.0.0.1:${port}`;
  for (const path of probes) {
    await eventually(`${url}${path}`, child, async () => {
      const answer = await fetch(url + path);
      assert.equal(answer.status, 200, await answer.text());
    });
  }
  return { url, child };
}

/** A token that the shared secret signs. */
function token(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: 'deploy', exp, ...claims })}`;
  return `${signed}.${createHmac('sha256', VARIABLES.TIDINGS_AUTH__SHARED_SECRET).update(signed).digest('base64url')}`;
}

async function publish(url, key) {
  const headers = {
    authorization: `Bearer ${token({ tenant_id: 'acme', module: 'demo' })}`,
    'content-type': 'application/json',
    'idempotency-key': key,
  };
  const body = JSON.stringify({ type: 'demo.greeting.sent', data: { text: key } });
  const answer = await fetch(`${url}/v1/events/publish`, { method: 'POST', headers, body });
  return [answer.status, await answer.json()];
}

/** The id of what is published under a key, by a gateway that may have to be asked again. */
async function published({ url, child }, key) {
  let id;
  await eventually(`${key} at ${url}`, child, async () => {
    const [status, answer] = await publish(url, key);
    assert.ok(status === 200 || status === 201, JSON.stringify(answer));
    id = answer.eventId;
  });
  return id;
}

/** Each knows the keys of the other. */
async function agree(one, other, name) {
  const id = await published(one, `greetings.${name}`);
  assert.equal(await published(other, `greetings.${name}`), id);
}

/** Ends it as an engine does. */
async function stop({ child }) {
  child.kill('SIGTERM');
  assert.deepEqual(await child.ended, [0, null], child.said());
}

before(async () => {
  assert.ok(FOLDER && BINARY && POSTGRES, 'scripts/deploy says where everything is');
  const kafka = startKafka();
  await Promise.all([startPostgres(), healthy('valkey', startValkey()), healthy('kafka', kafka)]);
});

after(() => {
  for (const child of children) child.kill('SIGKILL');
});

test('replicas as composed are one installation, and so are pods of the chart', async () => {
  // The first listens and keeps its files where the image says so.
  const [folder, options] = composed.tidings.tmpfs[0].split(':');
  assert.equal(folder, IMAGE.TIDINGS_DATA);
  const replicas = [];
  for (const port of [8080, 8081]) {
    const data = `${folder}${port === 8080 ? '' : port}`;
    mkdirSync(data);
    run('mount', ['-t', 'tmpfs', '-o', `${options},nosuid,nodev,noexec`, 'tmpfs', data], {});
    const own = port === 8080 ? {} : { TIDINGS_DATA: data, TIDINGS_SERVER__LISTEN: `0.0.0.0:${port}` };
    replicas.push(await gateway({ ...IMAGE, ...composed.tidings.environment, ...own }, port, ['/healthz', '/readyz']));
  }
  const [one, other] = replicas;

  const manifest = join(FOLDER, 'demo.json');
  const events = { publishes: ['demo.greeting.sent'], subscribes: [] };
  writeFileSync(manifest, JSON.stringify({ id: 'demo', version: '1.0.0', events }));
  run(BINARY, ['modules', 'apply', manifest], { TIDINGS_URL: one.url, TIDINGS_TOKEN: token({ roles: ['OPERATOR'] }) });
  await agree(one, other, 'composed');

  // Its port is the first replica's.
  await stop(one);
  const pod = await chartsPod();
  await agree(pod, other, 'chart');

  await stop(other);
  await stop(pod);
});

/** The container of the chart's values as they are, with a Secret such as they describe. */
async function chartsPod() {
  const { documents } = render({ secret: 'tidings' });
  const [map] = documents.filter(({ kind }) => kind === 'ConfigMap');
  const [{ spec }] = documents.filter(({ kind }) => kind === 'Deployment');
  const { volumes, containers: [container] } = spec.template.spec;
  const args = container.volumeMounts.reduce((words, { name, mountPath }) => {
    const place = join(FOLDER, `pod-${name}`);
    mkdirSync(place);
    run('chown', ['10001:10001', place]);
    if (volumes.some((volume) => volume.name === name && volume.configMap)) {
      for (const [file, text] of Object.entries(map.data)) writeFileSync(join(place, file), text);
    }
    return words.map((word) => word.replace(mountPath, place));
  }, container.args);
  const { TIDINGS_AUTH__SHARED_SECRET, TIDINGS_SECRETS__KEY, TIDINGS_STORE__URL, TIDINGS_RECEIPTS__URL } =
    composed.tidings.environment;
  const secret = { TIDINGS_AUTH__SHARED_SECRET, TIDINGS_SECRETS__KEY, TIDINGS_STORE__URL, TIDINGS_RECEIPTS__URL };
  const given = Object.fromEntries(container.env.map(({ name, value }) => [name, value]));
  const probes = ['startupProbe', 'livenessProbe', 'readinessProbe'].map((probe) => {
    assert.equal(container[probe].httpGet.port, container.ports[0].name);
    return container[probe].httpGet.path;
  });
  run(container.lifecycle.preStop.exec.command[0], ['0'], {});
  return gateway({ ...IMAGE, ...secret, ...given }, container.ports[0].containerPort, probes, args);
}
