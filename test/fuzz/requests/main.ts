/**
 * Bad requests in any number against a real edge and a real backend. Exit code 1 where one got an answer it may not get,
 * something is left behind, or memory grows. Run: npm run fuzz -- --requests 100000
 */
import { Command } from "commander";
import { count } from "../../support/options.ts";
import { failureOf, fuzzRequests, MB } from "./run.ts";

const options = new Command("fuzz")
  .description("bad requests against a real edge and a real backend")
  .option("--requests <n>", "how many", count, 10_000)
  .option("--concurrency <n>", "how many at once", count, 32)
  .option("--seed <n>", "repeats a run", count, (Date.now() % 1_000_000) + 1)
  .parse()
  .opts<{ requests: number; concurrency: number; seed: number }>();

const say = (line: string) => void process.stdout.write(`${line}\n`);
say(`seed ${options.seed}`);
const started = performance.now();
const result = await fuzzRequests({ ...options, note: say });
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
const edgeGrowth = growth("edge", result.edgeRss);
const backendGrowth = growth("backend", result.backendRss);
const isClean = ["running", "queue", "parked"].every((name) => result.left[`chameleon_${name}_sequences`] === 0);
const ok = result.failed === 0 && isClean && edgeGrowth && backendGrowth;
say(ok ? "ok" : "FAILED");
process.exitCode = ok ? 0 : 1;

/** Whether memory is level: in the last third of the run no more than a fifth above the middle third. */
function growth(name: string, rss: readonly number[]): boolean {
  const third = Math.floor(rss.length / 3);
  const mean = (values: readonly number[]) => values.reduce((total, value) => total + value, 0) / values.length;
  const middle = mean(rss.slice(third, 2 * third));
  const last = mean(rss.slice(-third));
  say(`memory of the ${name}: ${rss.map(MB).join(", ")}; last third over middle third ${(last / middle).toFixed(2)}x`);
  // A short run is still warming up.
  return options.requests < 10_000 || last < 1.2 * middle;
}
