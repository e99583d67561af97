import { type Command, InvalidArgumentError, Option } from "commander";
import { z } from "zod";

export interface SettingHelp {
  help: string;
  /** Continues the sentence "must be". */
  range: string;
  preset: string;
  /** A secret has no flag, because other users of the machine can read command lines. */
  isSecret: boolean;
}

const helpRegistry = z.registry<SettingHelp>();

function setting<Schema extends z.ZodType>(schema: Schema, help: Omit<SettingHelp, "isSecret">, isSecret = false) {
  helpRegistry.add(schema, { ...help, isSecret });
  return schema;
}

/** `presetText` describes a default that depends on the machine. */
export function integer(minimum: number, maximum: number, value: number, help: string, presetText = String(value)) {
  const { schema, range } = wholeNumber(minimum, maximum);
  return setting(schema.default(value), { help, range, preset: presetText });
}

export function optionalInteger(minimum: number, maximum: number, help: string, presetText: string) {
  const { schema, range } = wholeNumber(minimum, maximum);
  return setting(schema.optional(), { help, range, preset: presetText });
}

function wholeNumber(minimum: number, maximum: number) {
  const range = `a whole number from ${minimum} to ${maximum}`;
  const isInRange = (given: string) => /^\d+$/.test(given) && Number(given) >= minimum && Number(given) <= maximum;
  return { schema: z.string().refine(isInRange, `must be ${range}`).transform(Number), range };
}

export function choice<const Names extends readonly string[]>(names: Names, preset: Names[number], help: string) {
  const range = `one of ${names.join(", ")}`;
  const isOne = (given: string): given is Names[number] => names.includes(given);
  const schema = z.string().refine(isOne, `must be ${range}`).default(preset);
  return setting(schema, { help, range, preset });
}

/** `presetText` describes a default that depends on the installation. */
export function text(preset: string, range: string, help: string, presetText = preset) {
  return setting(z.string().min(1, `must be ${range}`).default(preset), { help, range, preset: presetText });
}

/** An empty value counts as not set. */
export function optionalText(pattern: RegExp, range: string, help: string, presetText: string) {
  const schema = z.string().refine((given) => given === "" || pattern.test(given), `must be ${range}`);
  return setting(schema.optional(), { help, range, preset: presetText });
}

export function secret(range: string, help: string) {
  return setting(z.string().optional(), { help, range, preset: "none" }, true);
}

/** Throws an Error for a schema without help. */
export function helpOf(schemas: Record<string, z.ZodType>): Map<string, SettingHelp> {
  return new Map(
    Object.entries(schemas).map(([name, schema]) => {
      const help = helpRegistry.get(schema);
      if (!help) throw new Error(`nothing is said of the setting ${name}`);
      return [name, help];
    }),
  );
}

export function flagOf(name: string): string {
  return `--${name.toLowerCase().replaceAll("_", "-")}`;
}

/** Returns a function that gives the parsed values by variable. */
export function addFlags(command: Command, schemas: Record<string, z.ZodType>): () => Record<string, string> {
  const names = new Map<string, string>();
  for (const [name, { help, range, preset, isSecret }] of helpOf(schemas)) {
    if (isSecret) continue;
    const option = new Option(`${flagOf(name)} <value>`, `${help} (${range}; default: ${preset})`).argParser(
      (given) => {
        const { error } = schemas[name].safeParse(given);
        if (error) throw new InvalidArgumentError(error.issues[0].message);
        return given;
      },
    );
    command.addOption(option);
    names.set(option.attributeName(), name);
  }
  return () =>
    Object.fromEntries(
      Object.entries(command.opts<Record<string, string>>()).map(([key, value]) => [names.get(key)!, value]),
    );
}

export function environmentNotes(schemas: Record<string, z.ZodType>): string {
  const all = [...helpOf(schemas)];
  const secrets = all
    .filter(([, { isSecret }]) => isSecret)
    .map(([name, { help, range }]) => `  ${name}\n      ${help} (${range})`);
  return `Environment:
A flag wins over its variable: ${flagOf(all[0][0])} over ${all[0][0]}, and so on. These have no flags, since others see a command line:
${secrets.join("\n")}`;
}
