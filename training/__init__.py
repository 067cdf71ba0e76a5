"""Material, training and judging of the mixing models; nothing here is needed to mix."""
