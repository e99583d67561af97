/** `chameleon eval:own`: what documents as a memory gain, beside adapters and a passage in the prompt. */
import { count, createCommand, runCommand } from "../../../command-line.ts";
import { commandProgress, interruptionSignal } from "../../../training/progress.ts";
import { addEvaluationOptions, type EvaluationFlags, report } from "../command.ts";
import { evaluateOwn } from "./evaluate.ts";
import { fitTable, ownKindTable, ownMeanTable } from "./render.ts";

const progress = commandProgress(() => performance.now());
const interruption = interruptionSignal(() => performance.now());

interface Flags extends EvaluationFlags {
  texts: number;
  cache: string;
}

const command = createCommand(
  "eval:own",
  "Measure what known documents gain as a memory, beside adapters and a passage in the prompt, and fit how memories count",
  ["chameleon eval:own"],
)
  .option("--texts <n>", "of each kind at most", count, 24)
  .option("--cache <folder>", "where finished parts are kept", ".cache/figures")
  .action(async ({ model, corpora, texts, threads, cache, json }: Flags) => {
    const options = { model, corpusFolder: corpora, texts, threads, cacheDirectory: cache };
    const result = await evaluateOwn(options, progress, interruption);
    progress.end();
    await report(json, result, [fitTable(result), ownMeanTable(result), ownKindTable(result)]);
  });
await runCommand(addEvaluationOptions(command, "eval-own"));
