"""Control: observe a vLLM deployment, simulate it, recommend an HPA, write it, check it."""
