"""Small sizes for the configs of transformers: by a field's name, and what single families need."""

import re

VOCAB, HIDDEN, HEADS, LAYERS, IMAGE, PATCH = 99, 64, 4, 2, 32, 8
# What a field's name looks like, and its small value; the first that matches.
RULES = [
    (r"vocab_size$|^n_token$|vocab_size_per_layer_input", VOCAB),
    (r"codebook_size$", 64),
    (r"^(max|n)_?position|max_(source|target)_positions|^n_ctx$|max_seq_len|max_sequence_len", 128),
    (r"num_key_value_groups", 1),
    (r"kv_head|key_value_head|num_kv|n_head_kv", 2),
    (r"attention_heads?$|^num_heads$|^n_heads?$|num_.*heads?$", HEADS),
    (r"rope_head_dim|^rotary_dim$", 8),
    (r"head_dim|head_size|^d_kv$|kv_channels|lora_rank", 16),
    (r"num_experts_per_tok|experts_top_k|moe_topk|top_k_experts|num_selected_experts|moe_k$", 2),
    (r"^(n_group|topk_group|num_expert_group|num_limited_groups)|shared_experts", 1),
    (r"experts$|moe_num_experts", 4),
    (r"sliding_window$|^local_attention$|attention_window", 6),
    (r"attention_chunk_size", 8),
    (r"image_size$|img_size$|^input_size$", IMAGE),
    (r"^patch_size$", PATCH),
    (r"layers$|^n_layers?$|^depth$|^num_blocks$", LAYERS),
    (r"(intermediate|ffn|mlp|feed_?forward|inner).*(size|dim)$|^d_ff$|^n_inner$", 64),
    (r"(hidden|embed|embedding|projection|model|output)_?(size|dims?)$|^d_model$|^n_embd$", HIDDEN),
    (r"^upsample_groups$", HIDDEN),
    (r"^num_filters$", 4),
    (r"^window_size$", 4),
    (r"^num_queries$", 8),
    (r"^dim$|^emb_dim$|^width$|hidden_channels$", HIDDEN),
]
TOKEN = re.compile(r"(token_id|_id|token_index|_idx)$")
# Fields that have no default.
MISSING = dict(
    head_dim=16, vocab_size=VOCAB, pad_token_id=0, num_key_value_heads=2, prediction_length=4
)
LISTS = ("layer_types", "mlp_layer_types", "layers_block_type")
MROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3])
BOTH = ("full_attention", "sliding_attention")
ROPE = dict(rope_type="default", rope_theta=10000.0)
# What a family needs beyond the rules, by model_type; a dict for a config within it.
OVERRIDES = {
    "align": dict(projection_dim=640),
    "align_vision_model": dict(hidden_dim=2560),
    "autoformer": dict(input_size=1, label_length=2, moving_average=3),
    "bamba": dict(mamba_n_heads=8, mamba_d_head=16),
    "chameleon": dict(vocabulary_map={"<image>": 5}),
    "clap_audio_model": dict(hidden_size=512),
    "clvp_encoder": dict(hidden_size=2 * HIDDEN),
    "cohere_compass_text": dict(layer_types=list(BOTH), rope_parameters=dict.fromkeys(BOTH, ROPE)),
    "dbrx": dict(
        attn_config=dict(rope_theta=10000.0, kv_n_heads=2, clip_qkv=8.0), rope_parameters=ROPE
    ),
    "deepseek_ocr2_text": dict(num_experts_per_tok=2, mlp_layer_types=["dense", "sparse"]),
    "deepseek_v2": dict(num_experts_per_tok=2),
    "depth_pro": dict(patch_size=IMAGE, intermediate_hook_ids=[1, 0]),
    "diffusion_gemma_text": dict(
        num_experts=4, top_k_experts=2, moe_intermediate_size=64, num_global_key_value_heads=2
    ),
    "donut-swin": dict(image_size=64, patch_size=2),
    "dots1": dict(n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2),
    "efficientloftr": dict(hidden_size=256, num_attention_heads=8),
    "efficientnet": dict(hidden_dim=2560),
    "emu3": dict(vocabulary_map={"<image>": 5}, pad_token_id=0),
    "emu3_vqgan": dict(base_channels=32),
    "encodec": dict(codebook_dim=HIDDEN, sampling_rate=24000),  # a lower one has 2400 quantizers
    "ernie4_5_vl_moe_text": dict(rope_parameters={**MROPE, "mrope_section": [3, 3, 2]}),
    "esmc": dict(num_key_value_heads=HEADS),
    "exaone4_5_vision": dict(window_size=112),
    "falcon_h1": dict(mamba_n_heads=8, mamba_d_head=16, mamba_d_ssm=128),
    "fun_asr_nano": dict(adaptor_config=dict(intermediate_size=HIDDEN // 4)),
    "gemma3n_text": dict(
        num_kv_shared_layers=0, intermediate_size=[64, 64], activation_sparsity_pattern=[0.0, 0.0]
    ),
    "gemma4_assistant": dict(
        text_config=dict(hidden_size_per_layer_input=0, vocab_size_per_layer_input=0)
    ),
    "glm4v_moe_text": dict(rope_parameters={**MROPE, "mrope_section": [1, 1, 2]}),
    "glm4v_text": dict(rope_parameters=MROPE),
    "glm_image_text": dict(rope_parameters=MROPE),
    "glm_ocr_text": dict(rope_parameters=MROPE),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]], window_size=6),
    "granite4_vision": dict(deepstack_layer_map=[(0, 0)], downsample_rate="1/2"),
    "granite_speech5_encoder": dict(num_key_value_heads=HEADS),
    "granitemoehybrid": dict(mamba_n_heads=8, mamba_d_head=16, layer_types=["mamba", "attention"]),
    "grounding-dino": dict(image_size=2 * IMAGE),  # a last map of 1 x 1 is badly conditioned
    "hunyuan_vl_text": dict(rope_parameters=MROPE),
    "informer": dict(input_size=1),
    "instructblip": dict(image_token_index=5),
    "instructblipvideo": dict(video_token_index=5),
    "kosmos-2": dict(latent_query_num=4),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]),
    "lilt": dict(hidden_size=96),
    "llama4_vision_model": dict(intermediate_size=256),
    "longcat_flash": dict(head_dim=8, qk_head_dim=24),
    "lw_detr": dict(projector_scale_factors=[1.0]),
    "lw_detr_vit": dict(num_windows=4),
    "mamba2": dict(num_heads=8, head_dim=16),
    "mistral4": dict(head_dim=16, qk_head_dim=24),
    "mllama_vision_model": dict(intermediate_layers_indices=[0, 1], vision_output_dim=3 * HIDDEN),
    "mm-grounding-dino": dict(image_size=2 * IMAGE),
    "molmo2": dict(adapter_config=dict(vision_feature_layer=[-1, -2])),
    "molmo2_vision": dict(image_size=[IMAGE, IMAGE]),
    "moonshine": dict(encoder_num_key_value_heads=HEADS, decoder_num_key_value_heads=HEADS),
    "moonshine_streaming": dict(num_key_value_heads=HEADS),
    "moonshine_streaming_encoder": dict(num_key_value_heads=HEADS, sample_rate=16000),
    "muse_glimmer_assistant": dict(target_layer_ids=[1]),
    "muse_spark_audio": dict(num_hidden_layers=4, hidden_sizes=[32, 32, 64, 64]),
    "nemotron3_5_transcribe_asr_audio": dict(num_key_value_heads=HEADS),
    "nemotron3_5_transcribe_audio": dict(num_key_value_heads=HEADS),
    "nemotron3_5_transcribe_word_timestamp": dict(num_key_value_heads=HEADS),
    "nemotron3_diarization_audio": dict(num_key_value_heads=HEADS),
    "nemotron_h_omni": dict(vision_config=dict(video_temporal_patch_size=2)),
    "paddleocr_vl_text": dict(rope_parameters=MROPE),
    "pix2struct_text_model": dict(initializer_range=0.02),
    "qwen2_5_omni_talker": dict(rope_parameters=MROPE),
    "qwen2_5_omni_text": dict(rope_parameters=MROPE),
    "qwen2_5_omni_vision_encoder": dict(window_size=112),
    "qwen2_5_vl_text": dict(rope_parameters=MROPE),
    "qwen2_5_vl_vision": dict(window_size=112),
    "qwen2_vl_text": dict(rope_parameters=MROPE),
    "qwen3_asr_encoder": dict(n_window_infer=200),
    "qwen3_omni_moe_audio_encoder": dict(n_window=50, n_window_infer=200),
    "qwen3_omni_moe_talker_text": dict(shared_expert_intermediate_size=64),
    "qwen4_exp_text": dict(
        indexer_n_heads=4,
        indexer_kv_heads=1,
        indexer_head_dim=16,
        indexer_budget=16,
        indexer_compress_ratio=4,
    ),
    "reformer": dict(is_decoder=True, axial_pos_embds=False),
    "sam2_hiera_det_model": dict(hidden_size=96, image_size=[IMAGE, IMAGE]),
    "sam2_prompt_encoder": dict(patch_size=16),
    "sam2_video_prompt_encoder": dict(patch_size=16),
    "sam2_vision_model": dict(backbone_feature_sizes=[[8, 8], [4, 4], [2, 2]]),
    "sam3_vision_model": dict(backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]),
    "seggpt": dict(image_size=[64, 32]),
    "step3p5": dict(sliding_window=6),
    "swin2sr": dict(image_size=IMAGE, patch_size=1),
    "swinv2": dict(image_size=64, patch_size=2),
    "t5gemma2_decoder": dict(dropout_rate=0.0),
    "t5gemma2_text": dict(dropout_rate=0.0),
    "time_series_transformer": dict(input_size=1),
    "tvp": dict(visual_prompt_size=8),
    "univnet": dict(model_hidden_channels=8, kernel_predictor_hidden_channels=8),
    "unlimited_ocr_text": dict(num_key_value_heads=HEADS),
    "vibevoice_asr": dict(acoustic_tokenizer_chunk_size=6400),
    "vitpose_backbone": dict(num_experts=1, patch_size=[PATCH, PATCH], image_size=[IMAGE, IMAGE]),
    "xlnet": dict(d_head=16),
    "xmod": dict(default_language="en_XX"),
    "yolos": dict(image_size=[IMAGE, IMAGE]),
    "zamba": dict(
        attention_hidden_size=2 * HIDDEN,
        attention_head_dim=32,
        num_hidden_layers=3,
        layers_block_type=["linear_attention", "hybrid", "hybrid"],
    ),
    "zaya": dict(num_experts_per_tok=1),
    "zoedepth": dict(bottleneck_features=HIDDEN),
}
