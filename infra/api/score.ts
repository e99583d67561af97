/** `chameleon score`: prints a text's perplexity under base, nearest adapter and mixture. */
import { text as readAll } from "node:stream/consumers";
import { count, createCommand, readText, runCommand } from "../../gpu-backend/command-line.ts";
import { Connection, type ConnectionOptions, withConnection } from "./connection.ts";
import { scoreText } from "./scoring.ts";
import { scoreTable } from "./stretches.ts";

interface Options extends ConnectionOptions {
  evidenceTokens: number;
  json?: boolean;
}

async function score(file: string, options: Options): Promise<void> {
  const text = file === "-" ? await readAll(process.stdin) : await readText(file);
  if (text.trim() === "") throw new Error(`${file} holds no text`);
  const adapters = { nearest: "nearest", mixture: "auto" };
  const { stretches, scores } = await scoreText(new Connection(options), text, adapters, options.evidenceTokens);
  const { base, nearest, mixture } = scores;
  if (options.json) process.stdout.write(`${JSON.stringify({ stretches, ...scores })}\n`);
  else process.stdout.write(scoreTable({ base, "nearest adapter": nearest, mixture }));
}

const program = createCommand(
  "score",
  "Score a text under the base, the nearest adapter and the mixture, through the API of a running stack",
  ["chameleon score my-text.txt", "cat my-text.txt | chameleon score - --json"],
  `Perplexity: lower is better. A long text is scored in stretches that fit the context.`,
).argument("<file>", "a text file, or - for standard input");
await runCommand(
  withConnection(program)
    .option("--evidence-tokens <n>", "first tokens of a stretch, which assign and weigh and are not scored", count, 64)
    .option("--json", "print JSON")
    .action(score),
);
