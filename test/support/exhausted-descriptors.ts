/** Uses up all file descriptors, asks for an engine and a fitter, and prints how each request failed. */
import { openSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { EngineSettings } from "../../gpu-backend/engine/messages.ts";
import { FitClient } from "../../gpu-backend/host/own-adapters/fit-client.ts";
import { EngineSupervisor } from "../../gpu-backend/host/supervisor.ts";

const [folder] = process.argv.slice(2);
const script = path.join(folder, "engine.mjs");
writeFileSync(
  script,
  `process.once("message", () => process.send({ type: "ready", info: { manifestHash: "a" } }));
process.once("disconnect", () => process.exit());`,
);
const failed = Promise.withResolvers<string>();
const supervisor = new EngineSupervisor({ artifactsDirectory: folder } as EngineSettings, {
  ...{ script: new URL(`file://${script}`), environment: {}, now: () => performance.now(), onMessage() {}, onEnd() {} },
  observer: {
    engineReady() {},
    engineFailed({ how }) {
      if (how.startsWith("cannot be started")) failed.resolve(how);
    },
  },
});
await supervisor.first;
const take = () => {
  try {
    for (;;) openSync("/dev/null", "r");
  } catch {
    // No descriptor is left.
  }
};
take();
supervisor.kill("was ended by a test");
// Also takes the descriptors that the ended process frees.
const taking = setInterval(take, 5);
process.stdout.write(`engine ${await failed.promise}\n`);
await supervisor.close();
const fitter = new FitClient({ modelDirectory: folder, artifactsDirectory: folder }, { environment: {} });
const request = { examples: [], validation: null };
await fitter
  .fit(request, new AbortController().signal)
  .catch((error: Error) => process.stdout.write(`fit ${error.message}\n`));
clearInterval(taking);
process.stdout.write("alive\n");
