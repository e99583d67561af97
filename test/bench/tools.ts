/**
 * How well a served model calls tools: 20 prompts for which one of three tools is right, and 10 for which none is.
 * Run: `npm start` in one terminal, then `node test/bench/tools.ts` (`--url`, `--key` for another server).
 */
import { z } from "zod";
import { createCommand, runCommand } from "../../gpu-backend/command-line.ts";
import { Connection, type ConnectionOptions, withConnection } from "../../infra/api/connection.ts";

const text = { type: "string" };
const toolOf = (name: string, description: string, properties: Record<string, object>) => ({
  type: "function",
  function: { name, description, parameters: { type: "object", properties, required: Object.keys(properties) } },
});
const tools = [
  toolOf("get_weather", "Get the current weather of a city", { city: text }),
  toolOf("set_timer", "Start a timer of some minutes", { minutes: { type: "integer", minimum: 1, maximum: 600 } }),
  toolOf("translate", "Translate one word into another language", { word: text, language: text }),
];

interface Asked {
  prompt: string;
  name: string;
  wanted: Record<string, string | number>;
}
const cities = ["Paris", "London", "Tokyo", "Madrid", "Rome", "Berlin", "Oslo"];
const minutes = [5, 10, 25, 45, 3, 15, 90];
const words = [
  ["dog", "French"],
  ["house", "Spanish"],
  ["water", "German"],
  ["bread", "Italian"],
  ["book", "French"],
  ["friend", "Spanish"],
];
const asked: Asked[] = [
  ...cities.map((city) => ({ prompt: `What is the weather in ${city} now?`, name: "get_weather", wanted: { city } })),
  ...minutes.map((n) => ({ prompt: `Set a timer for ${n} minutes.`, name: "set_timer", wanted: { minutes: n } })),
  ...words.map(([word, language]) => {
    const prompt = `Translate the word "${word}" into ${language}.`;
    return { prompt, name: "translate", wanted: { word, language } };
  }),
];
const others = [
  ...["Tell me a joke.", "Who wrote Hamlet?", "What is 2 + 2?", "Write a poem about the sea.", "Thank you!"],
  ...["What is photosynthesis?", "Name three colours.", "Is the earth round?", "Hello, how are you?", "Define irony."],
];

const call = z.object({ function: z.object({ name: z.string(), arguments: z.string() }) });
const answer = z.object({
  choices: z.array(
    z.object({ message: z.object({ tool_calls: z.array(call).optional() }), finish_reason: z.string() }),
  ),
});

/** The calls in an answer, and whether the last call is whole. */
async function calledBy(connection: Connection, content: string, tool_choice: string) {
  const body = { messages: [{ role: "user", content }], tools, tool_choice, temperature: 0, max_tokens: 96 };
  const { choices } = await connection.call(answer, "POST", "/v1/chat/completions", body);
  const [{ message, finish_reason }] = choices;
  const calls = message.tool_calls ?? [];
  return { calls: calls.map(({ function: told }) => told), isWhole: finish_reason === "tool_calls" };
}

const same = (a: unknown, b: string | number) => String(a).trim().toLowerCase() === String(b).toLowerCase();

async function measure(options: ConnectionOptions): Promise<void> {
  const connection = new Connection(options);
  for (const choice of ["required", "auto"]) {
    const counts = { called: 0, rightTool: 0, rightArguments: 0, several: 0 };
    for (const { prompt, name, wanted } of asked) {
      const { calls, isWhole } = await calledBy(connection, prompt, choice);
      const [first] = calls;
      if (!first) continue;
      counts.called++;
      if (calls.length > 1) counts.several++;
      if (first.name !== name) continue;
      counts.rightTool++;
      if (!isWhole && calls.length === 1) continue;
      const given = JSON.parse(first.arguments) as Record<string, unknown>;
      if (Object.entries(wanted).every(([field, value]) => same(given[field], value))) counts.rightArguments++;
    }
    process.stdout.write(
      `${choice}: of ${asked.length} prompts ${counts.called} called, ${counts.rightTool} the right tool first, ${counts.rightArguments} with the right arguments; ${counts.several} more than once\n`,
    );
  }
  let needless = 0;
  for (const prompt of others) if ((await calledBy(connection, prompt, "auto")).calls.length > 0) needless++;
  process.stdout.write(`auto: of ${others.length} prompts without a right tool ${needless} called one\n`);
}

const program = createCommand("tools", "Measure which tools a served model calls", ["node test/bench/tools.ts"]);
await runCommand(withConnection(program).action(measure));
