import { expect, test } from "vitest";
import { type Example, taskOf } from "../../../shared/contracts/examples.ts";

const chat = (text: string, answer: string, system?: string): Example => ({
  messages: [
    ...(system === undefined ? [] : [{ role: "system" as const, content: system }]),
    { role: "user", content: text },
    { role: "assistant", content: answer },
  ],
});

test("prompts with few completions have these as labels", () => {
  const examples = ["a", "b", "c", "d"].map((prompt, i) => ({ prompt, completion: [" x", " y"][i % 2] }));
  expect(taskOf(examples)).toEqual({ labels: [" x", " y"] });
});

test("conversations also have their system message", () => {
  const examples = ["a", "b", "c", "d"].map((text, i) => chat(text, ["x", "y"][i % 2], "Label it."));
  expect(taskOf(examples)).toEqual({ labels: ["x", "y"], system: "Label it." });
  expect(taskOf(examples.map((_, i) => chat("a", ["x", "y"][i % 2])))).toEqual({ labels: ["x", "y"], system: null });
});

const prompt = { prompt: "a", completion: "x" };
test.each<[string, Example[]]>([
  ["texts", ["a", "b", "a", "b"]],
  ["many answers", ["a", "b", "c"].map((prompt) => ({ prompt, completion: prompt }))],
  ["one answer", ["a", "b"].map((prompt) => ({ prompt, completion: "x" }))],
  ["prompts and conversations", [prompt, prompt, chat("b", "y"), chat("b", "y")]],
  ["two system messages", [chat("a", "x", "1"), chat("b", "y", "2"), chat("a", "x", "1"), chat("b", "y", "2")]],
  ["blank answers", [chat("a", " "), chat("b", "y"), chat("a", " "), chat("b", "y")]],
])("%s have no labels", (_, examples) => {
  expect(taskOf(examples)).toBeNull();
});
