/**
 * JSON Schema's own test suite: draft 2020-12, its required part (github.com/json-schema-org/JSON-Schema-Test-Suite, commit 44401e0c), of
 * which no package has more than draft 4.
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
/** With the forms of their schemas. */
export const servedGroups = groups.flatMap((group) => {
  const form = schemaForm(group.schema);
  return typeof form === "string" ? [{ ...group, form }] : [];
});
