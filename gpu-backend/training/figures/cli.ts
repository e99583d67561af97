/**
 * `chameleon eval` scores artifacts, `report` draws the result, `figures` makes every quality figure of the documents. Decides
 * nothing itself.
 */
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Command, Option } from "commander";
import { collected as collect, count, createCommand, runCommand } from "../../command-line.ts";
import { type WeightFormat, weightFormats } from "../../runtime/gpt2-graph.ts";
import { writeAtomically } from "../atomic-file.ts";
import { embeddedSettings } from "../bank/settings.ts";
import { defaultCorpusFolder, shownCorpusFolder } from "../corpus/lock.ts";
import { parseSource } from "../corpus/read-corpus.ts";
import { interruptionSignal } from "../interruptible.ts";
import { createProgress } from "../progress.ts";
import { type Shipped, shippedSchema } from "./data.ts";
import { figureDocuments, figuresPath, writeFigures } from "./documents.ts";
import { evaluateShipped } from "./eval-command.ts";
import { makeFigures } from "./figures.ts";
import { oracleTable, questionTable, shippedTable } from "./render.ts";
import { reportPage } from "./report.ts";

const embeddedModel = fileURLToPath(new URL("../../models/chameleon-mini", import.meta.url));
const isCheckout = import.meta.filename.endsWith(".ts");
const progress = createProgress(process.stderr, () => performance.now());
process.once("exit", () => progress.end());
const interruption = interruptionSignal(() => performance.now());

interface EvalFlags {
  model: string;
  artifacts?: string;
  corpus?: string[];
  corpora: string;
  texts?: number;
  quick: boolean;
  format: WeightFormat;
  threads: number;
  cache: string;
  json: string;
}

const texts = { usual: 40, quick: 12 };
const evalResult = ".cache/figures/eval.json";

const evalCommand = createCommand(
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
    "measure test documents of your own text, not of the corpus lock; repeatable",
    collect,
  )
  .addOption(
    new Option("--corpora <folder>", "where chameleon corpora put the text of the lock").default(
      defaultCorpusFolder,
      shownCorpusFolder,
    ),
  )
  .option("--texts <n>", `of each source at most (default: ${texts.usual})`, count)
  .option("--quick", `${texts.quick} texts of each source`, false)
  .addOption(new Option("--format <format>", "of the weights").choices(weightFormats).default("fp32" as const))
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--cache <folder>", "where finished parts are kept", ".cache/figures")
  .option("--json <file>", "where the result goes; chameleon report draws it", evalResult)
  .action(async (flags: EvalFlags) => {
    if (!flags.corpus && !isCheckout) {
      throw new Error("name the text with --corpus; only a checkout has corpora of its own");
    }
    const { model, format, threads } = flags;
    const result = await evaluateShipped(
      {
        ...{ model, format, threads, corpusFolder: flags.corpora, cacheDirectory: flags.cache },
        artifacts: flags.artifacts ?? join(model, "artifacts"),
        corpora: flags.corpus?.map(parseSource) ?? null,
        texts: flags.texts ?? (flags.quick ? texts.quick : texts.usual),
      },
      progress,
      interruption,
    );
    progress.end();
    await writeAtomically(flags.json, `${JSON.stringify(result, null, 2)}\n`);
    console.log("Gain over the base in nats a token [95% interval], in brackets the nearest adapter alone.");
    for (const kind of ["trained", "new"] as const) {
      if (result.rows.some((row) => row.kind === kind)) console.log(`\n${kind} text\n${shippedTable(result, kind)}`);
    }
    if (result.rows.some(({ prompt }) => prompt === "question")) console.log(`\n${questionTable(result)}`);
    if (result.rows.some(({ oracle }) => oracle)) console.log(`\n${oracleTable(result)}`);
    console.log(flags.json);
  });

const reportCommand = createCommand("report", "Draw what eval measured as one HTML page, which needs no network", [
  "chameleon report",
  "chameleon report --eval ./my-eval.json --out ./my-report.html",
])
  .option("--eval <file>", "what eval wrote", evalResult)
  .option("--out <file>", "where the page goes", ".cache/figures/report.html")
  .option("--json", "print the page's name as JSON")
  .action(async (flags: { eval: string; out: string; json?: boolean }) => {
    await writeAtomically(flags.out, reportPage(await readResult(flags.eval)));
    console.log(flags.json ? JSON.stringify({ html: flags.out }) : flags.out);
  });

async function readResult(path: string): Promise<Shipped> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new Error(`${path} cannot be read: run eval first, or name what it wrote with --eval`, { cause });
  });
  try {
    return shippedSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new Error(`${path} is not what eval writes`, { cause });
  }
}

interface FiguresFlags {
  corpora: string;
  threads: number;
  cache: string;
}

/** How much is measured for published figures, besides the settings of the embedded artifacts. */
const publishedMeasurement = {
  ...{ seeds: [1, 2, 3], texts: 150, testWindows: 1600 },
  ...{ familySteps: 200, familyWindows: 4000, familyTexts: 96 },
  ...{ paperLines: 1600, paperSteps: 1200 },
};

const figuresCommand = createCommand(
  "figures",
  "Measure every quality figure of the documents anew, and write it into them; goes on where it was interrupted",
  ["chameleon corpora && chameleon figures"],
)
  .addOption(
    new Option("--corpora <folder>", "where chameleon corpora put the text").default(
      defaultCorpusFolder,
      shownCorpusFolder,
    ),
  )
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--cache <folder>", "where finished parts are kept", ".cache/figures")
  .action(async ({ corpora: corpusFolder, threads, cache: cacheDirectory }: FiguresFlags) => {
    const artifacts = join(embeddedModel, "artifacts");
    const figures = await makeFigures(
      {
        ...embeddedSettings,
        ...publishedMeasurement,
        ...{ model: embeddedModel, artifacts, corpora: null, corpusFolder, cacheDirectory, threads },
      },
      progress,
      interruption,
    );
    await writeFigures(figures);
    progress.end();
    console.log(`${figuresPath}, rendered into ${figureDocuments.join(", ")}`);
  });

const commands: Record<string, Command> = { eval: evalCommand, report: reportCommand, figures: figuresCommand };
const [name] = process.argv.splice(2, 1);
await runCommand(commands[name]);
