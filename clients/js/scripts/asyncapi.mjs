// Checks docs/asyncapi.json against the schema of the AsyncAPI 3.0 specification; it must notice a mistake.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import Ajv from "ajv";
import formats from "ajv-formats";

// The variant without $id: the other names parts by addresses that ajv takes for schemas of their own.
const schema = createRequire(import.meta.url)("@asyncapi/specs/schemas/3.0.0-without-$id.json");
const ajv = new Ajv({ strict: false, allErrors: false, logger: false });
formats(ajv);
const validate = ajv.compile(schema);
const document = JSON.parse(readFileSync(new URL("../../../docs/asyncapi.json", import.meta.url), "utf8"));
if (!validate(document)) {
  console.error(ajv.errorsText(validate.errors, { separator: "\n" }));
  process.exit(1);
}
document.operations.receiveSendRequest.action = "hear";
if (validate(document)) {
  console.error("a wrong action was not noticed");
  process.exit(1);
}
console.log("docs/asyncapi.json is valid");
