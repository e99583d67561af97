/**
 * The required part of JSON Schema's own test suite for draft 2020-12 (github.com/json-schema-org/JSON-Schema-Test-Suite, commit 44401e0c).
 */
import { readFile } from "node:fs/promises";
import { schemaForm } from "../../shared/contracts/json-schema.ts";

interface Group {
  file: string;
  description: string;
  schema: object | boolean;
  tests: { description: string; data: unknown; valid: boolean }[];
}

const suite = new URL("../fixtures/json-schema-test-suite/draft2020-12.json", import.meta.url);
export const groups = JSON.parse(await readFile(suite, "utf8")) as Group[];
/** Groups whose schema is supported, each with its form. */
export const servedGroups = groups.flatMap((group) => {
  const form = schemaForm(group.schema);
  return typeof form === "string" ? [{ ...group, form }] : [];
});
