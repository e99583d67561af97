/**
 * What infra/Dockerfile says, as data: its stages, their instructions, and which files of the project it may copy. Pure.
 * Not here: carrying the steps out (build.ts).
 */
import { DockerfileParser, type Flag, type JSONInstruction, type ModifiableInstruction } from "dockerfile-ast";

export interface Instruction {
  keyword: string;
  flags: Record<string, string>;
  /** As it is written, on one line, without flags. */
  text: string;
  /** The arguments of a JSON form, else the words. */
  words: string[];
}

export interface Stage {
  /** null for one that cannot be named. */
  name: string | null;
  /** An earlier stage, or an image. */
  base: string;
  instructions: Instruction[];
}

/** Throws an Error where the file begins with anything but ARG and FROM. */
export function readStages(dockerfile: string): Stage[] {
  const initial: Record<string, string> = {};
  const stages: Stage[] = [];
  for (const parsed of DockerfileParser.parse(dockerfile).getInstructions()) {
    const instruction = readInstruction(parsed as ModifiableInstruction);
    const { keyword, words } = instruction;
    if (keyword === "FROM") {
      const base = words[0].replace(/\$\{?(\w+)\}?/g, (_, name) => initial[name]);
      stages.push({ name: words[2] ?? null, base, instructions: [] });
    } else if (stages.length > 0) stages.at(-1)!.instructions.push(instruction);
    else if (keyword === "ARG") Object.assign(initial, pairsOf(instruction));
    else throw new Error(`${keyword} stands before the first FROM`);
  }
  return stages;
}

function readInstruction(parsed: ModifiableInstruction): Instruction {
  const flags = "getFlags" in parsed ? parsed.getFlags() : [];
  const json = "getJSONStrings" in parsed ? (parsed as unknown as JSONInstruction).getJSONStrings() : [];
  const words = parsed.getArguments().map((argument) => argument.getValue());
  const raw = (parsed.getRawArgumentsContent() ?? "").replace(/\\\n\s*/g, "").trim();
  return {
    keyword: parsed.getKeyword(),
    flags: Object.fromEntries(flags.map((flag: Flag) => [flag.getName(), flag.getValue() ?? ""])),
    text: flags.reduce((text, flag) => text.replace(flag.toString(), "").trim(), raw),
    words: json.length > 0 ? json.map((one) => one.getJSONValue()) : words,
  };
}

/** Names and values of an ENV or ARG. */
export function pairsOf({ words }: Pick<Instruction, "words">): Record<string, string> {
  return Object.fromEntries(words.filter((word) => word.includes("=")).map((word) => word.split(/=(.*)/s).slice(0, 2)));
}

/** Whether the builder sees a file of the project, by the lines of a .dockerignore: the last that matches decides. */
export function isInContext(file: string, ignoreFile: string): boolean {
  const rules = ignoreFile.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const matches = (pattern: string) => pattern === "*" || file === pattern || file.startsWith(`${pattern}/`);
  const decisive = rules.findLast((rule) => matches(rule.replace("!", "")));
  return decisive === undefined || decisive.startsWith("!");
}
