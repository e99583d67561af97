/** `chameleon eval:tasks`: what an own adapter learns of labelled examples, beside the model as it is and examples in the prompt. */
import { count, createCommand, runCommand } from "../../../command-line.ts";
import { commandProgress, interruptionSignal } from "../../../training/progress.ts";
import { addEvaluationOptions, type EvaluationFlags } from "../command.ts";
import { evaluateTasks } from "./evaluate.ts";
import { taskTable } from "./table.ts";

const now = () => performance.now();
const progress = commandProgress(now);
const interruption = interruptionSignal(now);

interface Flags extends EvaluationFlags {
  seeds: number;
  tests: number;
  promptTests: number;
}

const command = createCommand(
  "eval:tasks",
  "Measure what an own adapter learns of labelled examples, beside the model as it is and examples in the prompt",
  ["chameleon eval:tasks"],
)
  .option("--seeds <n>", "draws of examples", count, 5)
  .option("--tests <n>", "texts to label", count, 400)
  .option("--prompt-tests <n>", "texts to label with examples in the prompt, which is slow", count, 100)
  .action(async ({ corpora, ...flags }: Flags) => {
    const rows = await evaluateTasks({ ...flags, corpusFolder: corpora, now }, progress, interruption);
    progress.end();
    console.log(`${taskTable(rows)}\n\n${flags.json}`);
  });
await runCommand(addEvaluationOptions(command, "eval-tasks"));
