// Reads the settings from the environment, serves, and stops when asked to.
import { createExtension } from './extension.js';
import { Tidings } from './tidings.js';

function setting(name: string): string {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} is not set; the README says what it is.`);
    process.exit(2);
  }
  return value;
}

const tidings = new Tidings(setting('TIDINGS_URL'), setting('TIDINGS_TOKEN'));
const extension = createExtension(setting('TIDINGS_SECRET'), tidings);

extension.listen(Number(process.env.PORT ?? 4010), '127.0.0.1', () => {
  const address = extension.address();
  console.log(typeof address === 'object' && address ? `http://127.0.0.1:${address.port}` : address);
});

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => extension.close());
}
