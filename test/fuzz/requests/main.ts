/**
 * Sends any number of bad requests to a real edge with a real backend. Exits with code 1 if an answer is not allowed, something is left
 * behind, or memory grows. Run: npm run fuzz -- --requests 100000
 */
import { Option } from "commander";
import { count, createCommand, parsedOptions } from "../../../gpu-backend/command-line.ts";
import { lateGrowth, verdictOf } from "../../support/growth.ts";
import type { Memory, MemorySample } from "./memory.ts";
import { failureOf, fuzzRequests, sequenceGauges } from "./run.ts";

/** Samples of memory in a run. Growth is the slope of a line through the later half of them. */
const memorySamples = 20;
/** A run of fewer requests is not judged by its memory, because caches still fill in it. */
const fewestForMemory = 50_000;
/** Growth in bytes per 10,000 requests that still counts as none: 50 live and 400 resident bytes a request. */
const levelBytes = { live: 500_000, rss: 4_000_000 };

const options = parsedOptions<{ requests: number; concurrency: number; seed: number }>(
  createCommand("fuzz", "bad requests against a real edge and a real backend", ["chameleon fuzz"])
    .option("--requests <n>", `how many; memory is judged from ${fewestForMemory} up`, count, 10_000)
    .option("--concurrency <n>", "how many at once", count, 32)
    .addOption(
      // --help does not show the default, which differs in each run, because its text becomes a page of the documents site.
      new Option("--seed <n>", "repeats a run").argParser(count).default((Date.now() % 1_000_000) + 1, "a new one"),
    ),
);

const say = (line: string) => void process.stdout.write(`${line}\n`);
const MB = (bytes: number) => (bytes / 1e6).toFixed(2);
const shown = ({ live, rss, rssBefore }: Memory) => `${MB(live)} live, ${MB(rss)} resident (${MB(rssBefore)} before)`;
const note = ({ requests, edge, backend }: MemorySample) =>
  say(`${requests} of ${options.requests}, in MB, garbage collected: edge ${shown(edge)}; backend ${shown(backend)}`);

say(`seed ${options.seed}`);
const started = performance.now();
const result = await fuzzRequests({ ...options, memorySamples, note });
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
const isLevel = [growth("edge", "live"), growth("edge", "rss"), growth("backend", "live"), growth("backend", "rss")];
const ok = result.failed === 0 && isClean && result.refusedSets > 0 && isLevel.every(Boolean);
say(ok ? "ok" : "FAILED");
process.exitCode = ok ? 0 : 1;

/** Prints how memory grew over the second half of the run. Returns false if growth is certain. */
function growth(side: "edge" | "backend", kind: "live" | "rss"): boolean {
  const found = lateGrowth(result.memory.map((sample) => ({ requests: sample.requests, value: sample[side][kind] })));
  const name = kind === "live" ? "live" : "resident";
  if (!found) {
    say(`${name} memory of the ${side}: too few requests to say`);
    return true;
  }
  const verdict = options.requests < fewestForMemory ? "too few requests to say" : verdictOf(found, levelBytes[kind]);
  const figures = `${MB(found.slope)} MB for 10,000 requests (95%: ${MB(found.low)} to ${MB(found.high)})`;
  say(`${name} memory of the ${side}, second half: ${figures}, limit ${MB(levelBytes[kind])}: ${verdict}`);
  return verdict !== "grows";
}
