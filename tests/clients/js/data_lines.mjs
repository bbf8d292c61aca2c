// Commands from stdin, one JSON object a line; replies and events to stdout. Ends with its stdin.

import { createInterface } from 'node:readline';

export const tell = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

export async function serve(handle) {
  tell({ event: 'ready' });
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    try {
      tell({ reply: command.id, result: await handle(command) });
    } catch (error) {
      tell({ reply: command.id, error: `${error?.name}: ${error?.message ?? error}` });
    }
  }
  process.exit(0);
}
