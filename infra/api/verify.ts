/** `chameleon verify`: computes an answer again, and prints where it differs. */
import { createCommand, readText, runCommand } from "../../gpu-backend/command-line.ts";
import { Connection, type ConnectionOptions, withConnection } from "./connection.ts";
import { answerSchema, differencesOf, repetitionOf, requestSchema } from "./verified.ts";

const maxDifferences = 10;

async function verify(requestFile: string, answerFile: string, options: ConnectionOptions): Promise<void> {
  const [requests, answers] = await Promise.all([parsedFile(requestFile), parsedFile(answerFile)]);
  if (requests.length === 0) throw new Error(`${requestFile} holds no request`);
  if (requests.length !== answers.length) {
    throw new Error(`${requestFile} holds ${requests.length} requests, and ${answerFile} ${answers.length} answers`);
  }
  const connection = new Connection(options);
  let equal = 0;
  for (const [i, request] of requests.entries()) {
    const answer = answerSchema.parse(answers[i]);
    const { path, body } = repetitionOf(requestSchema.parse(request), answer);
    const differences = differencesOf(answer, await connection.call(answerSchema, "POST", path, body), maxDifferences);
    if (differences.length === 0) equal++;
    for (const { path, answer, computed } of differences) {
      const at = requests.length > 1 ? `line ${i + 1}: ` : "";
      process.stdout.write(`${at}${path} is ${JSON.stringify(answer)}, computed ${JSON.stringify(computed)}\n`);
    }
  }
  process.stdout.write(`${equal} of ${requests.length} equal\n`);
  if (equal < requests.length) process.exitCode = 1;
}

/** A file holds one JSON value, or one on each line. */
async function parsedFile(file: string): Promise<unknown[]> {
  const text = await readText(file);
  try {
    return [JSON.parse(text)];
  } catch {
    return text
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map((line) => JSON.parse(line));
  }
}

const program = createCommand(
  "verify",
  "Compute an answer again through the API of a running stack, and say whether it is equal",
  ["chameleon verify request.json answer.json", "chameleon verify requests.jsonl answers.jsonl --url https://…"],
  `A file holds the JSON of a request and of its whole answer, or one on each line. Text, tokens, logprobs, experts, gains and usage are compared.
An answer tells its seed where the request had an object "chameleon"; else the request needs a seed, or temperature 0.

Exit code: 0 equal, 1 different`,
)
  .argument("<request>", "a JSON file, or JSON Lines")
  .argument("<answer>", "the same number of answers");
await runCommand(withConnection(program).action(verify));
