/** What the commands that evaluate have in common: options, and figures that go to a file and as tables to the terminal. */
import { availableParallelism } from "node:os";
import { type Command, Option } from "commander";
import { count } from "../../command-line.ts";
import { writeWhole } from "../../files.ts";
import { embeddedModel } from "../../models/embedded.ts";
import { defaultCorpusFolder, shownCorpusFolder } from "../../training/corpus/lock.ts";

export interface EvaluationFlags {
  model: string;
  corpora: string;
  threads: number;
  json: string;
}

export function addEvaluationOptions(command: Command, figures: string): Command {
  return command
    .addOption(new Option("--model <folder>", "of the base").default(embeddedModel, "the embedded model"))
    .addOption(
      new Option("--corpora <folder>", "where chameleon corpora put the text of the lock").default(
        defaultCorpusFolder,
        shownCorpusFolder,
      ),
    )
    .option("--threads <n>", "threads", count, availableParallelism())
    .option("--json <file>", "where the figures go", `.cache/figures/${figures}.json`);
}

/** Writes an evaluation's figures to `file`, and prints its tables of gains. */
export async function report(file: string, figures: unknown, tables: readonly string[]): Promise<void> {
  await writeWhole(file, `${JSON.stringify(figures, null, 1)}\n`);
  console.log(["Gains over the base in nats a token [95% interval].", ...tables, file].join("\n\n"));
}
