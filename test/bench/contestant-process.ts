/**
 * The child process of one contestant: loads the model and answers the check prompts. Then it measures each `Cell` and answers each `Text`
 * that it receives.
 * Run by the contest: node --expose-gc contestant-process.ts SYSTEM FORMAT THREADS GGUF
 */
import { answerQuestions } from "./asked-process.ts";
import { openChameleon } from "./chameleon.ts";
import type { Answer, Cell, Contestant, Loaded, Measurement, System } from "./contestant.ts";
import { promptsOf } from "./model.ts";
import type { Text } from "./texts.ts";

/** Prompts that all contestants answer once, to warm up and to show that they compute the same. */
const checkPrompts = { batch: 8, tokens: 24 };

const [system, format, threads, gguf] = process.argv.slice(2);
const contestant = await open(system as System, format, Number(threads));
const firstIds = await contestant.firstIds(promptsOf(checkPrompts.batch, checkPrompts.tokens));
answerQuestions(
  { ids: firstIds, loadMs: contestant.loadMs } satisfies Loaded,
  (question: Cell | Text): Promise<Measurement | Answer> => {
    if ("promptIds" in question) return contestant.answer(question);
    const { batch, context, steps } = question;
    return contestant.measure(promptsOf(batch, context - steps), steps);
  },
);

async function open(system: System, format: string, threads: number): Promise<Contestant> {
  switch (system) {
    case "chameleon":
      return openChameleon(format as Parameters<typeof openChameleon>[0], threads, gguf);
    case "node-llama-cpp":
      return (await import("./llama/contestant.ts")).openLlama(
        threads,
        gguf,
        format === "gguf-vulkan" ? "vulkan" : false,
      );
  }
}
