/**
 * Collects commander's parsers of all commands without running them: each file is imported, and its parsing of arguments throws. Needs a
 * process of its own, because imported files install signal handlers. As a program, prints all help as JSON.
 */
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Command } from "commander";
import { commandsOf } from "../commands.mjs";

const root = path.join(import.meta.dirname, "../..");
export const vitestCommands = ["test", "test:all"];

class Captured {
  readonly command: Command;
  constructor(command: Command) {
    this.command = command;
  }
}

/** Returns parsers by command name. Throws an Error for a file that parses no arguments. */
export async function programs(): Promise<Map<string, Command>> {
  const { parse, parseAsync } = Command.prototype;
  const capture = function (this: Command): never {
    throw new Captured(this);
  };
  Object.assign(Command.prototype, { parse: capture, parseAsync: capture });
  for (const stream of [process.stdout, process.stderr]) stream.setMaxListeners(100);
  process.setMaxListeners(100);
  const found = new Map<string, Command>();
  for (const [name, [, file, ...first]] of Object.entries<[string, string, ...string[]]>(commandsOf(true))) {
    if (vitestCommands.includes(name)) continue;
    process.argv = [process.execPath, file, ...first, "--help"];
    // A file may serve several commands. The query string makes Node load the file again.
    const url = `${pathToFileURL(path.join(root, file))}?${first.join("-")}`;
    const captured: unknown = await import(url).catch((error: unknown) => error);
    if (!(captured instanceof Captured)) throw new Error(`${file} parses no arguments`, { cause: captured });
    found.set(name, captured.command);
  }
  Object.assign(Command.prototype, { parse, parseAsync });
  return found;
}

export function withSubcommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}

function helpOf(command: Command): string {
  let text = "";
  const writeOut = (part: string) => {
    text += part;
  };
  command.configureOutput({ writeOut, getOutHelpWidth: () => 100 });
  command.outputHelp();
  return text.trim();
}

if (process.argv[1] === import.meta.filename) {
  const helps = [...(await programs())].map(([name, command]) => [name, withSubcommands(command).map(helpOf)]);
  process.stdout.write(JSON.stringify(Object.fromEntries(helps)));
}
