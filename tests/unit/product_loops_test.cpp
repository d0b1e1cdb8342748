// Loops in listings made by hand, as nvdisasm writes them.
#include "product_loops.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

namespace fa::test {
namespace {

// Two loops with products in a loop with another, one of which waits behind its end and branches
// back; one without.
constexpr const char* listing = R"(	.section	.text.k,"ax",@progbits
.text.k:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   STL [R1], R2 ;
.L_x_0:
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], R24, gsb0 ;
        /*0030*/                   LDL R2, [R1] ;
.L_x_1:
        /*0040*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], R24 ;
        /*0050*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R4+URZ], R0 ;
        /*0060*/              @!P1 BRA `(.L_x_5) ;
.L_x_2:
        /*0070*/                   LDL.LU R2, [R1+0x4] ;
        /*0080*/               @P0 BRA `(.L_x_1) ;
.L_x_3:
        /*0090*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], R24 ;
        /*00a0*/                   BRA.U UP0, `(.L_x_3) ;
.L_x_4:
        /*00b0*/                   LDL R3, [R1] ;
        /*00c0*/                   BRA P2, `(.L_x_4) ;
        /*00d0*/               @P3 BRA `(.L_x_0) ;
        /*00e0*/                   EXIT ;
.L_x_5:
        /*00f0*/                   STL [R1+0x4], R2 ;
        /*0100*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R4+URZ], R0 ;
        /*0110*/              @!P1 BRA `(.L_x_5) ;
        /*0120*/                   BRA `(.L_x_2) ;
.L_x_6:
        /*0130*/                   BRA `(.L_x_6);
)";

TEST(ProductLoops, TheInnermostAreFound) {
  const std::vector<ProductLoop> loops = product_loops(listing);
  ASSERT_EQ(loops.size(), 2U);
  EXPECT_EQ(loops[0].instructions, 9);
  EXPECT_EQ(loops[0].products, 1);
  EXPECT_EQ(loops[0].local_accesses, 2);
  EXPECT_EQ(loops[1].instructions, 2);
  EXPECT_EQ(loops[1].products, 1);
  EXPECT_EQ(loops[1].local_accesses, 0);
}

TEST(ProductLoops, WhatIsNoListingIsRefused) {
  EXPECT_THROW(product_loops("nvdisasm fatal"), std::runtime_error);
  EXPECT_THROW(product_loops("        /*0000*/  BRX R2 -0x10 ;\n"), std::runtime_error);
}

}  // namespace
}  // namespace fa::test
