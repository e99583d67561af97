/**
 * Sends any number of bad requests to a real edge with a real backend. Exits with code 1 if an answer is not allowed or something is left
 * behind. Run: npm run fuzz -- --requests 100000
 */
import { Option } from "commander";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { failureOf, fuzzRequests, sequenceGauges } from "./run.ts";

const options = parsedOptions<{ requests: number; concurrency: number; seed: number }>(
  createCommand("fuzz", "bad requests against a real edge and a real backend", ["chameleon fuzz"])
    .option("--requests <n>", "how many", count, 10_000)
    .option("--concurrency <n>", "how many at once", count, 32)
    .addOption(
      // --help does not show the default, which differs in each run, because its text becomes a page of the documents site.
      new Option("--seed <n>", "repeats a run").argParser(count).default((Date.now() % 1_000_000) + 1, "a new one"),
    ),
);

const say = (line: string) => void process.stdout.write(`${line}\n`);
say(`seed ${options.seed}`);
const started = performance.now();
const result = await fuzzRequests(options);
const seconds = (performance.now() - started) / 1000;

const outcomes = Object.entries(result.outcomes).sort(([, a], [, b]) => b - a);
say(
  `${options.requests} requests in ${seconds.toFixed(0)} s: ${outcomes.map(([name, n]) => `${name} ${n}`).join(", ")}`,
);
for (const { request, outcome } of result.failures) {
  say(
    `FAILED ${failureOf(outcome)}: ${JSON.stringify(request.head.slice(0, 300))} ${JSON.stringify(request.delivery)}`,
  );
  say(`       body ${JSON.stringify(Buffer.from(request.body).toString("latin1").slice(0, 300))}`);
  say(`       answer ${JSON.stringify(outcome.answer.slice(0, 500))}`);
}
if (result.failed > 0 && result.log) say(`the edge wrote: ${result.log.slice(-2000)}`);
say(
  `left behind: ${Object.entries(result.left)
    .map(([name, n]) => `${name} ${n}`)
    .join(", ")}`,
);
say(`a good request afterwards: ${result.answerMs.toFixed(0)} ms`);
const isClean = sequenceGauges.every((name) => result.left[name] === 0);
say(`sets of artifacts refused meanwhile: ${result.refusedSets}`);
const ok = result.failed === 0 && isClean && result.refusedSets > 0;
say(ok ? "ok" : "FAILED");
process.exitCode = ok ? 0 : 1;
