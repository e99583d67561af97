/** fake-backend.ts as a process of its own. */
import { fork } from "node:child_process";
import { once } from "node:events";
import path from "node:path";

export async function startFakeBackend(manifestHash: string): Promise<{ url: string; stop(): Promise<void> }> {
  const child = fork(path.join(import.meta.dirname, "fake-backend.ts"), [manifestHash], {
    stdio: ["ignore", "pipe", "inherit", "ipc"],
  });
  const [line] = await once(child.stdout!, "data");
  return {
    url: String(line).trim(),
    async stop() {
      child.kill();
      await once(child, "close");
    },
  };
}
