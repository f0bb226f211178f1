"""Code generated from proto/ by tools/gen_proto. Do not edit."""
