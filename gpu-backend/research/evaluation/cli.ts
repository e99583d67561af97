/** `chameleon eval`: scores artifacts by base, static adapter, nearest adapter and mixture. */
import { join } from "node:path";
import { collected, count, createCommand, runCommand } from "../../command-line.ts";
import { parseSource } from "../../training/corpus/read-corpus.ts";
import { commandProgress, interruptionSignal } from "../../training/progress.ts";
import { addEvaluationOptions, type EvaluationFlags, report } from "./command.ts";
import { evaluate } from "./evaluate.ts";
import { classTable, meanTable, sourceTable } from "./render.ts";

const isCheckout = import.meta.filename.endsWith(".ts");
const progress = commandProgress(() => performance.now());
const interruption = interruptionSignal(() => performance.now());

interface EvalFlags extends EvaluationFlags {
  artifacts?: string;
  corpus?: string[];
  texts: number;
  cache: string;
}

const command = createCommand(
  "eval",
  "Score artifacts by base, static adapter, nearest adapter and mixture, after prompts of 8 to 128 tokens",
  ["chameleon eval --texts 12", "chameleon eval --artifacts ./my-artifacts --corpus ./my-texts"],
)
  .option("--artifacts <folder>", "manifest.json and the files it names (default: the model's artifacts/)")
  .option(
    "--corpus <[name=]path>",
    "measure held-out documents of this text instead of the corpus lock's; repeatable",
    collected,
  )
  .option("--texts <n>", "of each source at most", count, 20)
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
    await report(flags.json, result, [meanTable(result), classTable(result), sourceTable(result)]);
  });

await runCommand(addEvaluationOptions(command, "eval"));
