/**
 * `chameleon score`: the perplexity of a text under the base, the nearest adapter and the mixture. The first tokens of each stretch
 * assign it and weigh the mixture; the tokens after them are scored, the same for all three.
 */
import { text as readAll } from "node:stream/consumers";
import { z } from "zod";
import { count, createCommand, readText, runCommand } from "../../gpu-backend/command-line.ts";
import { ApiError, Connection, type ConnectionOptions, withConnection } from "./connection.ts";
import { cutInTwo, mean, type Score, scoreTable, stretchesOf } from "./stretches.ts";

const methods = { base: "off", nearest: "nearest", mixture: "auto" } as const;
export type MethodName = keyof typeof methods;
const methodNames = Object.keys(methods) as MethodName[];

const echoSchema = z.object({
  choices: z.tuple([z.object({ logprobs: z.object({ token_logprobs: z.array(z.number().nullable()) }) })]),
});

interface Options extends ConnectionOptions {
  evidenceTokens: number;
  json?: boolean;
}

async function score(file: string, options: Options): Promise<void> {
  const text = file === "-" ? await readAll(process.stdin) : await readText(file);
  if (text.trim() === "") throw new Error(`${file} holds no text`);
  const connection = new Connection(options);
  const scores: Record<MethodName, Score>[] = [];
  const queue = stretchesOf(text);
  for (let stretch = queue.shift(); stretch !== undefined; stretch = queue.shift()) {
    try {
      const scored = await scoreStretch(connection, stretch, options);
      if (scored) scores.push(scored);
    } catch (error) {
      // Only the tokenizer knows how many characters fit the context.
      if (!(error instanceof ApiError && error.code === "context_length_exceeded")) throw error;
      queue.unshift(...cutInTwo(stretch));
    }
  }
  if (scores.length === 0) throw new Error(`${file} is too short: 3 tokens are the fewest that can be scored`);
  const means = Object.fromEntries(methodNames.map((name) => [name, mean(scores.map((one) => one[name]))])) as Record<
    MethodName,
    Score
  >;
  if (options.json) process.stdout.write(`${JSON.stringify({ stretches: scores.length, ...means })}\n`);
  else process.stdout.write(scoreTable(means));
}

/** null for a stretch of fewer than three tokens: none would be left to score. */
async function scoreStretch(
  connection: Connection,
  prompt: string,
  { evidenceTokens }: Options,
): Promise<Record<MethodName, Score> | null> {
  const ask = async (name: MethodName, evidence?: number) => {
    const { choices } = await connection.call(echoSchema, "POST", "/v1/completions", {
      ...{ prompt, max_tokens: 0, echo: true, logprobs: 0 },
      chameleon: { adapter: methods[name], ...(evidence !== undefined && { evidence_tokens: evidence }) },
    });
    return choices[0].logprobs.token_logprobs;
  };
  const base = await ask("base");
  if (base.length < 3) return null;
  // Of a short text, half.
  const evidence = Math.min(evidenceTokens, Math.floor(base.length / 2));
  const sumOf = (logprobs: (number | null)[]): Score => {
    const scored = logprobs.slice(evidence);
    const nats = -scored.reduce<number>((sum, logprob) => sum + (logprob ?? 0), 0) / scored.length;
    return { nats, perplexity: Math.exp(nats), tokens: scored.length };
  };
  return {
    base: sumOf(base),
    nearest: sumOf(await ask("nearest", evidence)),
    mixture: sumOf(await ask("mixture", evidence)),
  };
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
