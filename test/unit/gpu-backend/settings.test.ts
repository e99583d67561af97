import { Command, CommanderError } from "commander";
import { describe, expect, test } from "vitest";
import { environmentSchema, readConfig } from "../../../gpu-backend/config.ts";
import { addFlags, environmentNotes, flagOf, helpOf } from "../../../gpu-backend/settings.ts";

const schemas = environmentSchema.shape;
const settings = [...helpOf(schemas)];
const flags = settings.filter(([, { isSecret }]) => !isSecret).map(([name]) => name);

/** The variables that a command line gives. Throws a CommanderError for a bad one. */
function given(...args: string[]): Record<string, string> {
  const command = new Command("backend").exitOverride().configureOutput({ writeErr: () => {} });
  const variables = addFlags(command, schemas);
  command.parse(args, { from: "user" });
  return variables();
}

/** A value that each setting accepts, and one that it refuses. */
const values: Record<string, [good: string, bad: string]> = {
  BACKEND_HOST: ["0.0.0.0", ""],
  MODEL_DIR: ["./model", ""],
  DATA_DIR: ["./data", ""],
  WEIGHT_FORMAT: ["exact", "fp8"],
  DEVICE: ["webgpu", "tpu"],
  REQUIRE_DEVICE: ["webgpu", "cpu"],
  ARTIFACTS_URL: ["file:///bucket", "bucket"],
};
/** A setting without an entry in `values` is a number whose range includes 200. */
const valuesOf = (name: string) => values[name] ?? ["200", "-1"];

describe.each(flags)("%s", (name) => {
  const [good, bad] = valuesOf(name);

  test("is a flag, which wins over the environment, which wins over the default", () => {
    const isOther = (config: object) => JSON.stringify(config) !== JSON.stringify(readConfig({}));
    expect(given(flagOf(name), good)).toEqual({ [name]: good });
    expect(isOther(readConfig({ [name]: good }))).toBe(true);
    expect(readConfig({ [name]: bad }, given(flagOf(name), good))).toEqual(readConfig({ [name]: good }));
  });

  test("with a bad value is refused by flag, value and range", () => {
    const refusal = () => given(flagOf(name), bad);
    expect(refusal).toThrow(CommanderError);
    expect(refusal).toThrow(`option '${flagOf(name)} <value>' argument '${bad}' is invalid. must be `);
    expect(refusal).toThrow(helpOf(schemas).get(name)!.range);
  });
});

test("a secret is no flag: the help says which are left to the environment", () => {
  const secrets = settings.filter(([, { isSecret }]) => isSecret).map(([name]) => name);
  expect(secrets).toEqual(expect.arrayContaining(["BACKEND_SECRETS", "AWS_SECRET_ACCESS_KEY"]));
  const help = environmentNotes(schemas);
  for (const name of secrets) {
    expect(() => given(flagOf(name), "x")).toThrow("unknown option");
    expect(help).toContain(name);
  }
});
