// Makes src/frames.ts from docs/protocol.schema.json: one TypeScript type per definition.
//
//   node scripts/frames.mjs            writes it
//   node scripts/frames.mjs --check    fails when it is stale
//
// It knows what the schema uses and stops at anything else, so that nothing is lost silently.

import { readFileSync, writeFileSync } from "node:fs";

const schemaPath = new URL("../../../docs/protocol.schema.json", import.meta.url);
const outPath = new URL("../src/frames.ts", import.meta.url);

/** Keywords that narrow values in ways a TypeScript type does not tell. */
const SILENT = ["description", "maximum", "minimum", "maxLength", "minLength", "pattern", "format", "default"];

function comment(schema, indent) {
  return schema.description ? `${indent}/** ${schema.description.replaceAll("*/", "*\\/")} */\n` : "";
}

function typeOf(schema, indent) {
  const known = [...SILENT, "$ref", "const", "type", "properties", "required", "items", "prefixItems", "minItems",
    "maxItems", "oneOf", "anyOf", "allOf", "additionalProperties", "enum"];
  const strange = Object.keys(schema).find((key) => !known.includes(key));
  if (strange) throw new Error(`the schema uses ${strange}, which this generator does not know`);
  const { $ref, type, oneOf, anyOf, allOf } = schema;
  if ($ref) return $ref.replace("#/$defs/", "");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const parts = [];
  if (allOf) parts.push(...allOf.map((one) => typeOf(one, indent)));
  if (schema.properties) parts.push(objectOf(schema, indent));
  const choice = oneOf ?? anyOf;
  if (choice) {
    const all = choice.map((one) => typeOf(one, indent)).join(" | ");
    parts.push(parts.length ? `(${all})` : all);
  }
  if (parts.length) return parts.join(" & ");
  const types = Array.isArray(type) ? type : [type];
  return types.map((one) => plain(one, schema, indent)).join(" | ");
}

function plain(type, schema, indent) {
  switch (type) {
    case "integer": case "number": return "number";
    case "string": case "boolean": case "null": return type;
    case "array":
      if (schema.prefixItems) return `[${schema.prefixItems.map((one) => typeOf(one, indent)).join(", ")}]`;
      return `(${typeOf(schema.items, indent)})[]`.replace(/^\((\w+)\)\[\]$/, "$1[]");
    case "object":
      return typeof schema.additionalProperties === "object"
        ? `Record<string, ${typeOf(schema.additionalProperties, indent)}>`
        : "Record<string, unknown>";
    default: throw new Error(`the schema has a type ${type}, which this generator does not know`);
  }
}

function objectOf({ properties, required = [] }, indent) {
  const inner = `${indent}  `;
  const fields = Object.entries(properties).map(([name, schema]) =>
    `${comment(schema, inner)}${inner}${name}${required.includes(name) ? "" : "?"}: ${typeOf(schema, inner)};\n`);
  return `{\n${fields.join("")}${indent}}`;
}

function generate() {
  const { $defs } = JSON.parse(readFileSync(schemaPath, "utf8"));
  const types = Object.entries($defs).map(([name, schema]) =>
    `${comment(schema, "")}export type ${name} = ${typeOf(schema, "")};\n`);
  return `// Made from docs/protocol.schema.json by scripts/frames.mjs: change that, not this.\n\n${types.join("\n")}`;
}

const made = generate();
if (process.argv.includes("--check")) {
  if (readFileSync(outPath, "utf8") !== made) {
    console.error("clients/js/src/frames.ts is stale: run `npm run frames` in clients/js");
    process.exit(1);
  }
} else {
  writeFileSync(outPath, made);
}
