/** `chameleon eval:tasks`: what an own adapter learns of labelled examples, beside the model as it is and examples in the prompt. */
import { availableParallelism } from "node:os";
import { Option } from "commander";
import { count, createCommand, runCommand } from "../../../command-line.ts";
import { writeWhole } from "../../../files.ts";
import { embeddedModel } from "../../../models/embedded.ts";
import { defaultCorpusFolder, shownCorpusFolder } from "../../../training/corpus/lock.ts";
import { commandProgress, interruptionSignal } from "../../../training/progress.ts";
import { evaluateTasks, type TaskRow } from "./evaluate.ts";

const now = () => performance.now();
const progress = commandProgress(now);
const interruption = interruptionSignal(now);

interface Flags {
  model: string;
  corpora: string;
  seeds: number;
  tests: number;
  promptTests: number;
  threads: number;
  json: string;
}

const command = createCommand(
  "eval:tasks",
  "Measure what an own adapter learns of labelled examples, beside the model as it is and examples in the prompt",
  ["chameleon eval:tasks"],
)
  .addOption(new Option("--model <folder>", "of the base").default(embeddedModel, "the embedded model"))
  .option("--seeds <n>", "draws of examples", count, 5)
  .option("--tests <n>", "texts to label", count, 400)
  .option("--prompt-tests <n>", "texts to label with examples in the prompt, which is slow", count, 100)
  .option("--json <file>", "where the figures go", ".cache/figures/eval-tasks.json")
  .addOption(
    new Option("--corpora <folder>", "where the packages of the sets go").default(
      defaultCorpusFolder,
      shownCorpusFolder,
    ),
  )
  .option("--threads <n>", "threads of the trunk", count, availableParallelism())
  .action(async ({ corpora, json, ...flags }: Flags) => {
    const rows = await evaluateTasks({ ...flags, corpusFolder: corpora, now }, progress, interruption);
    progress.end();
    await writeWhole(json, `${JSON.stringify(rows, null, 1)}\n`);
    console.log(tableOf(rows));
    console.log(`\n${json}`);
  });
await runCommand(command);

/** Means over seeds. `removed`: share of zero-shot's errors that the adapter does not make. `time`: of the fit, in prefills of the examples twice. */
function tableOf(rows: readonly TaskRow[]): string {
  const lines = Map.groupBy(rows, ({ set, examples }) => `| ${set} | ${examples} |`)
    .entries()
    .map(([cell, of]) => {
      const mean = (value: (row: TaskRow) => number) => of.reduce((sum, row) => sum + value(row), 0) / of.length;
      const zero = mean(({ zeroShot }) => zeroShot.accuracy);
      const own = mean((row) => row.own.accuracy);
      const values = [
        ...[zero, mean(({ fewShot }) => fewShot.accuracy), own, 1 - (1 - own) / (1 - zero)],
        ...[mean(({ zeroShot }) => zeroShot.calibrationError), mean(({ fewShot }) => fewShot.calibrationError)],
        mean((row) => row.own.calibrationError),
      ].map((value) => value.toFixed(3));
      const time = mean(({ milliseconds }) => milliseconds.fit / milliseconds.prefillTwice).toFixed(2);
      const [shown, kept] = [mean(({ fewShot }) => fewShot.shown), mean((row) => Number(row.own.kept))];
      return `${cell} ${[...values, time, shown.toFixed(0), kept.toFixed(2)].join(" | ")} |`;
    });
  const head = ["set", "examples", "zero-shot", "few-shot", "own", "removed", "ECE zero", "ECE few", "ECE own"];
  const columns = [...head, "time", "shown", "kept"];
  return [`| ${columns.join(" | ")} |`, `|${"---|".repeat(columns.length)}`, ...lines].join("\n");
}
