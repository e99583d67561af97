/** `chameleon eval`: scores artifacts and prints tables. */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Option } from "commander";
import { collected as collect, count, createCommand, runCommand } from "../../command-line.ts";
import { writeWhole } from "../../files.ts";
import { type WeightFormat, weightFormats } from "../../runtime/products.ts";
import { defaultCorpusFolder, shownCorpusFolder } from "../../training/corpus/lock.ts";
import { parseSource } from "../../training/corpus/read-corpus.ts";
import { commandProgress, interruptionSignal } from "../../training/progress.ts";
import { evaluate } from "./eval-command.ts";
import { gainTable, methodTable, questionTable } from "./render.ts";

const embeddedModel = fileURLToPath(new URL("../../models/chameleon-mini", import.meta.url));
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
  texts?: number;
  quick: boolean;
  controls: boolean;
  own?: number;
  static?: string;
  format: WeightFormat;
  json: string;
}

const texts = { usual: 40, quick: 12 };
const evalResult = ".cache/figures/eval.json";

const command = createCommand(
  "eval",
  "Score artifacts as they are shipped: base, nearest adapter and mixture, after prompts of 8 to 256 tokens",
  ["chameleon eval --quick", "chameleon eval --artifacts ./my-artifacts --corpus ./my-texts"],
)
  .addOption(
    new Option("--model <folder>", "config.json, model.safetensors, vocab.json, merges.txt").default(
      embeddedModel,
      "the embedded model",
    ),
  )
  .option("--artifacts <folder>", "manifest.json and the files it names (default: the model's artifacts/)")
  .option(
    "--corpus <[name=]path>",
    "measure test documents of this text instead of the corpus lock's; repeatable",
    collect,
  )
  .option("--texts <n>", `of each source at most (default: ${texts.usual})`, count)
  .option("--quick", `${texts.quick} texts of each source`, false)
  .option("--controls", "also measure equal weights and random centroids", false)
  .option("--own <n>", "also measure an own adapter of each source, made of so many example texts", count)
  .option("--static <folder>", "also measure the one adapter of these artifacts (train --centroids 1)")
  .addOption(new Option("--format <format>", "of the weights").choices(weightFormats).default("fp32" as const))
  .option("--json <file>", "where the result goes", evalResult)
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
    const { model, format, threads } = flags;
    const result = await evaluate(
      {
        ...{ model, format, threads, corpusFolder: flags.corpora, cacheDirectory: flags.cache },
        artifacts: flags.artifacts ?? join(model, "artifacts"),
        corpora: flags.corpus?.map(parseSource) ?? null,
        texts: flags.texts ?? (flags.quick ? texts.quick : texts.usual),
        controls: flags.controls,
        ownExamples: flags.own ?? 0,
        staticArtifacts: flags.static ?? null,
      },
      progress,
      interruption,
    );
    progress.end();
    await writeWhole(flags.json, `${JSON.stringify(result, null, 1)}\n`);
    console.log("Gain over the base in nats a token [95% interval], in brackets the nearest adapter alone.");
    for (const kind of ["trained", "new"] as const) {
      if (result.rows.some((row) => row.kind === kind)) console.log(`\n${kind} text\n${gainTable(result, kind)}`);
    }
    if (result.rows.some(({ prompt }) => prompt === "question")) console.log(`\n${questionTable(result)}`);
    console.log(`\n${methodTable(result)}\n${flags.json}`);
  });

await runCommand(command);
