/**
 * Parses command lines with the parsers of `chameleon` and wrangler. Needs a process of its own, because the commands' files listen to
 * signals. Reads ParseTask[] as JSON on stdin; prints the problem of each task, or null.
 */
import { text } from "node:stream/consumers";
import type { Command, CommanderError } from "commander";
import { experimental_getWranglerCommands as wranglerCommands } from "wrangler";
import { programs, withSubcommands } from "../../infra/site/programs.ts";

export interface ParseTask {
  program: "wrangler" | (string & {});
  args: string[];
  /** Only names of commands and options are checked: arguments may be missing, and values may be placeholders. */
  namesAlone: boolean;
}

const missing = new Set([
  "commander.missingArgument",
  "commander.missingMandatoryOptionValue",
  "commander.optionMissingArgument",
]);

const chameleon = await programs();
for (const command of [...chameleon.values()].flatMap(withSubcommands)) {
  command.configureOutput({ writeErr: () => {}, writeOut: () => {} }).exitOverride((error) => {
    throw error;
  });
  if (command.commands.length === 0) command.action(() => {});
}

async function problemOf({ program, args, namesAlone }: ParseTask): Promise<string | null> {
  if (program === "wrangler") return wranglerProblem(args);
  const command = chameleon.get(program);
  if (!command) return `there is no command ${program}`;
  if (namesAlone) for (const one of withSubcommands(command)) acceptPlaceholders(one);
  try {
    await command.parseAsync(args, { from: "user" });
    return null;
  } catch (error) {
    const { code, message } = error as CommanderError;
    if (code === "commander.helpDisplayed" || code === "commander.help") return null;
    return namesAlone && missing.has(code) ? null : message;
  }
}

function acceptPlaceholders(command: Command): void {
  for (const option of command.options) option.parseArg = undefined;
}

/** `wranglerCommands` is a tree of commands with the options of each. */
function wranglerProblem(args: string[]): string | null {
  const { registry, globalFlags } = wranglerCommands();
  let node = registry;
  let depth = 0;
  for (; node.subtree.has(args[depth]); depth++) node = node.subtree.get(args[depth])!;
  if (node.definition?.type !== "command") return `wrangler has no command ${args.join(" ")}`;
  const { args: options = {}, positionalArgs = [] } = node.definition;
  const flags = args.filter((arg) => arg.startsWith("--")).map((arg) => arg.slice(2).split("=")[0]);
  const unknown = flags.find((flag) => !(flag in options) && !(flag in globalFlags));
  if (unknown !== undefined) return `wrangler ${args.join(" ")} takes no --${unknown}`;
  const given = args.slice(depth).filter((arg, i, rest) => !arg.startsWith("--") && !rest[i - 1]?.startsWith("--"));
  return given.length > positionalArgs.length ? `wrangler ${args.join(" ")} has too many arguments` : null;
}

const tasks = JSON.parse(await text(process.stdin)) as ParseTask[];
const problems: (string | null)[] = [];
// A command that once accepted placeholders always accepts them, so strict tasks come first.
const strictFirst = [...tasks.keys()].sort((a, b) => Number(tasks[a].namesAlone) - Number(tasks[b].namesAlone));
for (const i of strictFirst) problems[i] = await problemOf(tasks[i]);
process.stdout.write(JSON.stringify(problems));
