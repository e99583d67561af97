/**
 * Whether a real Prometheus and Alertmanager raise each alert when its cause is there, and end it when the cause is gone.
 * A minute of the rules is a second here. Run: npm run bench:alerts -- --help
 */
import { setTimeout as pause } from "node:timers/promises";
import { createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { type Cause, causes, onStage } from "./causes.ts";
import { missingPrograms, startWatch, type Watch } from "./prometheus.ts";

/** Milliseconds for an alert to fire or to end: the longest window that an alert ends by is an hour, here a minute. */
const patienceMs = 150_000;

const options = parsedOptions<{ only?: string[] }>(
  createCommand("bench:alerts", "Provoke the alerts' causes under a real Prometheus", [
    "chameleon bench:alerts --only away",
  ]).option("--only <names>", `of ${causes.map(({ name }) => name).join(", ")}`, (names: string) => names.split(",")),
);
const missing = missingPrograms();
if (missing.length > 0) throw new Error(`install Debian's packages ${missing.join(" and ")}`);
const chosen = causes.filter(({ name }) => options.only?.includes(name) ?? true);
if (chosen.length === 0) throw new Error(`there are ${causes.map(({ name }) => name).join(", ")}`);

const watch = await startWatch();
let failures = 0;
try {
  for (const cause of chosen) {
    const said = await show(cause, watch);
    if (!said.isRight) failures++;
    process.stdout.write(`${said.isRight ? "ok    " : "FAILED"}  ${cause.name}: ${said.line}\n`);
  }
} finally {
  await watch.stop();
}
process.exitCode = failures > 0 ? 1 : 0;

async function show(cause: Cause, watch: Watch): Promise<{ isRight: boolean; line: string }> {
  let said = { isRight: false, line: "" };
  await onStage(
    (urls) => watch.scrape(cause.name, urls),
    async (stage) => {
      const seen = new Set<string>();
      // Also while the cause begins, since an alert may be over when it has begun.
      const fired = until(async () => {
        for (const name of await watch.firing(cause.name)) seen.add(name);
        return cause.alerts.every((name) => seen.has(name));
      });
      const [end, didFire] = await Promise.all([cause.begin(stage), fired]);
      await end();
      const didEnd =
        didFire &&
        (await until(async () => !(await watch.firing(cause.name)).some((name) => cause.alerts.includes(name))));
      const line = `${cause.alerts.join(", ")} ${didFire ? "fired" : `did not all fire (${[...seen]})`}${didEnd ? " and ended" : ""}`;
      said = { isRight: didFire && didEnd, line };
    },
  );
  return said;
}

async function until(isTrue: () => Promise<boolean>): Promise<boolean> {
  const endMs = performance.now() + patienceMs;
  while (performance.now() < endMs) {
    if (await isTrue()) return true;
    await pause(250);
  }
  return false;
}
