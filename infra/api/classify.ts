/** `chameleon classify`: prints which of several labels fits each line of a file. */
import { text as readAll } from "node:stream/consumers";
import { createCommand, readText, runCommand } from "../../gpu-backend/command-line.ts";
import { classifyResponseSchema } from "../../shared/contracts/classify-response.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { Connection, type ConnectionOptions, withConnection } from "./connection.ts";

interface Options extends ConnectionOptions {
  labels?: string[];
  model?: string;
  json?: boolean;
}

async function classify(file: string, options: Options): Promise<void> {
  const text = file === "-" ? await readAll(process.stdin) : await readText(file);
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) throw new Error(`${file} holds no text`);
  const connection = new Connection(options);
  const { labels, model } = options;
  for (let i = 0; i < lines.length; i += limits.classifyInputs) {
    const input = lines.slice(i, i + limits.classifyInputs);
    const { data } = await connection.call(classifyResponseSchema, "POST", "/v1/classify", { input, labels, model });
    for (const { index, chameleon: _, ...one } of data) {
      const percent = `${Math.round(100 * one.probabilities[one.label])}%`;
      const line = options.json
        ? JSON.stringify({ text: input[index], ...one })
        : `${one.label}\t${percent}\t${input[index]}`;
      process.stdout.write(`${line}\n`);
    }
  }
}

const program = createCommand(
  "classify",
  "Tell which of some labels fits each line of a file, through the API of a running stack",
  [
    "chameleon classify letters.txt --labels refund,delivery,praise",
    "cat letters.txt | chameleon classify - --labels spam,ham --json",
  ],
  "Prints label, probability and text, separated by tabs.",
).argument("<file>", "a text file, or - for standard input");
await runCommand(
  withConnection(program)
    .option(
      "--labels <labels>",
      "separated by commas; those of its examples for an adapter of your own",
      (value: string) => value.split(","),
    )
    .option("--model <name>", "`smollm2-135m:NAME` is an adapter of your own; it continues each line as it is")
    .option("--json", "print a line of JSON for each text")
    .action(classify),
);
