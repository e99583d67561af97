/** `chameleon eval`: scores artifacts by base, static adapter, nearest adapter and mixture. */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Option } from "commander";
import { collected as collect, count, createCommand, runCommand } from "../../command-line.ts";
import { writeWhole } from "../../files.ts";
import { embeddedModel } from "../../models/embedded.ts";
import { defaultCorpusFolder, shownCorpusFolder } from "../../training/corpus/lock.ts";
import { parseSource } from "../../training/corpus/read-corpus.ts";
import { commandProgress, interruptionSignal } from "../../training/progress.ts";
import { evaluate } from "./evaluate.ts";
import { classTable, meanTable, sourceTable } from "./render.ts";

const isCheckout = import.meta.filename.endsWith(".ts");
const progress = commandProgress(() => performance.now());
const interruption = interruptionSignal(() => performance.now());

interface EvalFlags {
  corpora: string;
  threads: number;
  cache: string;
  model: string;
  artifacts?: string;
  corpus?: string[];
  texts: number;
  json: string;
}

const command = createCommand(
  "eval",
  "Score artifacts by base, static adapter, nearest adapter and mixture, after prompts of 8 to 128 tokens",
  ["chameleon eval --texts 12", "chameleon eval --artifacts ./my-artifacts --corpus ./my-texts"],
)
  .addOption(new Option("--model <folder>", "of the base").default(embeddedModel, "the embedded model"))
  .option("--artifacts <folder>", "manifest.json and the files it names (default: the model's artifacts/)")
  .option(
    "--corpus <[name=]path>",
    "measure held-out documents of this text instead of the corpus lock's; repeatable",
    collect,
  )
  .option("--texts <n>", "of each source at most", count, 20)
  .option("--json <file>", "where the figures go", ".cache/figures/eval.json")
  .addOption(
    new Option("--corpora <folder>", "where chameleon corpora put the text of the lock").default(
      defaultCorpusFolder,
      shownCorpusFolder,
    ),
  )
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--cache <folder>", "where finished parts are kept", ".cache/figures")
  .action(async (flags: EvalFlags) => {
    if (!flags.corpus && !isCheckout) {
      throw new Error("name the text with --corpus; only a checkout has corpora of its own");
    }
    const { model, threads, texts, cache: cacheDirectory, corpora: corpusFolder } = flags;
    const options = {
      ...{ model, threads, texts, cacheDirectory, corpusFolder },
      artifacts: flags.artifacts ?? join(model, "artifacts"),
      corpora: flags.corpus?.map(parseSource) ?? null,
    };
    const result = await evaluate(options, progress, interruption);
    progress.end();
    await writeWhole(flags.json, `${JSON.stringify(result, null, 1)}\n`);
    console.log("Gains over the base in nats a token [95% interval].");
    for (const table of [meanTable, classTable, sourceTable]) console.log(`\n${table(result)}`);
    console.log(`\n${flags.json}`);
  });

await runCommand(command);
