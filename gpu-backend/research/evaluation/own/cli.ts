/** `chameleon eval:own`: what documents as a memory gain, beside adapters and a passage in the prompt. */
import { availableParallelism } from "node:os";
import { Option } from "commander";
import { count, createCommand, runCommand } from "../../../command-line.ts";
import { writeWhole } from "../../../files.ts";
import { embeddedModel } from "../../../models/embedded.ts";
import { defaultCorpusFolder, shownCorpusFolder } from "../../../training/corpus/lock.ts";
import { commandProgress, interruptionSignal } from "../../../training/progress.ts";
import { evaluateOwn } from "./evaluate.ts";
import { fitTable, ownKindTable, ownMeanTable } from "./render.ts";

const progress = commandProgress(() => performance.now());
const interruption = interruptionSignal(() => performance.now());

interface Flags {
  model: string;
  corpora: string;
  texts: number;
  threads: number;
  cache: string;
  json: string;
}

const command = createCommand(
  "eval:own",
  "Measure what known documents gain as a memory, beside adapters and a passage in the prompt, and fit how memories count",
  ["chameleon eval:own"],
)
  .addOption(new Option("--model <folder>", "of the base").default(embeddedModel, "the embedded model"))
  .option("--texts <n>", "of each kind at most", count, 24)
  .option("--json <file>", "where the figures go", ".cache/figures/eval-own.json")
  .addOption(
    new Option("--corpora <folder>", "where chameleon corpora put the text of the lock").default(
      defaultCorpusFolder,
      shownCorpusFolder,
    ),
  )
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--cache <folder>", "where finished parts are kept", ".cache/figures")
  .action(async ({ model, corpora, texts, threads, cache, json }: Flags) => {
    const options = { model, corpusFolder: corpora, texts, threads, cacheDirectory: cache };
    const result = await evaluateOwn(options, progress, interruption);
    progress.end();
    await writeWhole(json, `${JSON.stringify(result, null, 1)}\n`);
    console.log("Gains over the base in nats a token [95% interval].");
    for (const table of [fitTable, ownMeanTable, ownKindTable]) console.log(`\n${table(result)}`);
    console.log(`\n${json}`);
  });
await runCommand(command);
